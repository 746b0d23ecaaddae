/* The least that a client of token streams can cost: epoll, one read and one clock reading an arrival, and no parsing
 * beyond finding the answer's end.
 *
 *     reader PORT STREAMS REQUESTS RAMP_IN_S SEEN
 *
 * STREAMS connections to 127.0.0.1, the first requests spread over RAMP_IN_S, REQUESTS one after another on each.
 * Writes SEEN, a line a request: number sent written, then a stamp a token (ns of CLOCK_MONOTONIC); and prints CPU time,
 * user and system, in µs a token, from the first request to the last answer's end.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MOST_TOKENS = 4096, READ_BYTES = 1 << 16 };

typedef struct {
    int fd, asked, number, tokens;
    int64_t sent, written, stamps[MOST_TOKENS];
} User;

static const char END[] = "\r\n0\r\n\r\n", CONTENT[] = "\"content\":\"";
static const char REQUEST[] =
    "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 93\r\n\r\n"
    "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"Tick.\"}],\"max_tokens\":4096,\"stream\":true }";

static FILE *seen;
static long long tokens_seen;

static void die(const char *what) { perror(what); exit(1); }

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static double cpu_us(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec * 1e6 + used.ru_utime.tv_usec + used.ru_stime.tv_sec * 1e6 + used.ru_stime.tv_usec;
}

static int connected(int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return fd;
}

static void ask(User *user)
{
    user->asked++;
    user->tokens = 0;
    user->sent = now_ns();
    if (send(user->fd, REQUEST, sizeof REQUEST - 1, 0) != sizeof REQUEST - 1) die("send");
    user->written = now_ns();
}

static void tell(User *user)
{
    fprintf(seen, "%d %lld %lld", user->number, (long long)user->sent, (long long)user->written);
    for (int i = 0; i < user->tokens; i++) fprintf(seen, " %lld", (long long)user->stamps[i]);
    fputc('\n', seen);
}

/* One read. Returns whether the answer has ended. */
static int hear(User *user)
{
    static char bytes[READ_BYTES + 1];
    ssize_t got = recv(user->fd, bytes, READ_BYTES, MSG_DONTWAIT);
    int64_t stamp = now_ns();
    if (got <= 0) { if (got < 0 && errno == EAGAIN) return 0; die("recv"); }
    for (char *at = bytes, *end = bytes + got; (at = memmem(at, end - at, CONTENT, sizeof CONTENT - 1)); at++) {
        if (user->tokens == MOST_TOKENS) { fputs("more tokens than the reader holds\n", stderr); exit(1); }
        if (!user->tokens) { bytes[got] = 0; user->number = atoi(at + sizeof CONTENT - 1); }
        user->stamps[user->tokens++] = stamp;
        tokens_seen++;
    }
    return got >= (ssize_t)sizeof END - 1 && !memcmp(bytes + got - (sizeof END - 1), END, sizeof END - 1);
}

int main(int count, char **given)
{
    if (count != 6) { fputs("reader PORT STREAMS REQUESTS RAMP_IN_S SEEN\n", stderr); return 2; }
    int port = atoi(given[1]), streams = atoi(given[2]), requests = atoi(given[3]);
    double ramp_in_ns = atof(given[4]) * 1e9;
    if (!(seen = fopen(given[5], "w"))) die(given[5]);
    int poller = epoll_create1(0), begun = 0, ended = 0;
    User *users = calloc(streams, sizeof *users);
    for (int i = 0; i < streams; i++) {
        users[i].fd = connected(port);
        struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = &users[i]};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, users[i].fd, &wanted)) die("epoll_ctl");
    }
    double before = cpu_us();
    int64_t start = now_ns();
    while (ended < streams) {
        int wait_ms = -1;
        while (begun < streams) {
            int64_t left = start + (int64_t)(ramp_in_ns * begun / streams) - now_ns();
            if (left > 0) { wait_ms = left / 1000000 + 1; break; }
            ask(&users[begun++]);
        }
        struct epoll_event ready[256];
        int n = epoll_wait(poller, ready, 256, wait_ms);
        for (int i = 0; i < n; i++) {
            User *user = ready[i].data.ptr;
            if (!hear(user)) continue;
            tell(user);
            if (user->asked < requests) ask(user);
            else ended++;
        }
    }
    printf("{\"cpu_us\": %.3f, \"tokens\": %lld}\n", (cpu_us() - before) / tokens_seen, tokens_seen);
    return fclose(seen) != 0;
}
