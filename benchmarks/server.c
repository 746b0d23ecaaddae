/* A scripted server of token streams, and its own account of what it did: the truth that clients are measured against.
 *
 *     server TTFT_MS ITL_MS TOKENS staggered|together LOG
 *
 * Listens on a free port of 127.0.0.1, prints its URL, serves until its standard input ends, then writes LOG. One
 * thread, one epoll, one timer. Every POST is answered with a stream: the head at once, the first token TTFT_MS after
 * the request's last byte arrived, then one every ITL_MS, each an event, a chunk and a send of its own. together: at
 * the next multiples of ITL_MS on the clock, which all streams have in common. A request that asks for fewer tokens
 * (max_tokens, max_completion_tokens) gets fewer; one that asks for usage (include_usage) gets it before [DONE]. The
 * first token is the request's number. Any GET is answered with a list of one model, "m".
 *
 * LOG, a line a request: number connection arrived, then due, before, after of each token. All ns of CLOCK_MONOTONIC.
 * arrived: the kernel's receive stamp of the read that completed the request. before, after: around the send. A token
 * left in between; before - due is how late the server was itself. A stream whose client has gone ends there.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CONNECTIONS = 8192, REQUEST_BYTES = 1 << 20, BACKLOG = 4096 };

typedef struct { int64_t due, before, after; } Token;

typedef struct Request {
    struct Request *next;
    int number, connection, wanted, sent;
    int usage, close;
    int64_t arrived, due;
    Token tokens[];
} Request;

typedef struct {
    int id;
    char *pending;
    size_t have, room;
    Request *playing;
} Connection;

static int64_t ttft_ns, itl_ns;
static int tokens, together, poller, timer, requests, connections;
static Connection *peers[MOST_CONNECTIONS];
static Request *first, **last = &first;
static int heap[MOST_CONNECTIONS], heap_size; /* descriptors, by when their next token is due */

static void die(const char *what) { perror(what); exit(1); }

static int64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

/* CLOCK_REALTIME minus our clock: the narrowest of three brackets. */
static int64_t wall_offset_ns(void)
{
    int64_t width = INT64_MAX, offset = 0;
    for (int i = 0; i < 3; i++) {
        int64_t before = now_ns(), wall = clock_ns(CLOCK_REALTIME), after = now_ns();
        if (after - before < width) {
            width = after - before;
            offset = wall - (before + after) / 2;
        }
    }
    return offset;
}

/* The heap */

static int64_t due_at(int place) { return peers[heap[place]]->playing->due; }

static void swap(int a, int b) { int kept = heap[a]; heap[a] = heap[b]; heap[b] = kept; }

static void sink(int place)
{
    for (;;) {
        int least = place, child = 2 * place + 1;
        if (child < heap_size && due_at(child) < due_at(least)) least = child;
        if (child + 1 < heap_size && due_at(child + 1) < due_at(least)) least = child + 1;
        if (least == place) return;
        swap(place, least);
        place = least;
    }
}

static void push(int fd)
{
    int place = heap_size++;
    heap[place] = fd;
    while (place && due_at(place) < due_at((place - 1) / 2)) {
        swap(place, (place - 1) / 2);
        place = (place - 1) / 2;
    }
}

static void remove_at(int place)
{
    heap[place] = heap[--heap_size];
    for (int i = heap_size / 2; i >= 0; i--) sink(i); /* rare enough: only when a client goes */
}

/* Answers */

static void drop(int fd)
{
    Connection *peer = peers[fd];
    for (int place = 0; place < heap_size; place++)
        if (heap[place] == fd) { remove_at(place); break; }
    peers[fd] = NULL;
    close(fd);
    free(peer->pending);
    free(peer);
}

/* Whether all of it went: a client that has gone, or does not read for megabytes, gets no more. */
static int put(int fd, const char *data, size_t size)
{
    return send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size;
}

static int event(char *into, const char *data)
{
    return sprintf(into, "%zx\r\ndata: %s\n\n\r\n", strlen(data) + 8, data);
}

static int64_t pace(int64_t moment) { return together ? (moment / itl_ns + 1) * itl_ns : moment + itl_ns; }

#define FRAME "{\"id\":\"chatcmpl-%d\",\"object\":\"chat.completion.chunk\",\"created\":1764000000,\"model\":\"m\","

static int put_token(int fd, Request *request)
{
    char text[16] = "t ", data[512], bytes[640];
    if (!request->sent) sprintf(text, "%d ", request->number);
    sprintf(data, FRAME "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},\"logprobs\":null,"
            "\"finish_reason\":null}]}", request->number, text);
    int size = event(bytes, data);
    Token *token = &request->tokens[request->sent++];
    token->due = request->due;
    token->before = now_ns();
    int went = put(fd, bytes, size);
    token->after = now_ns();
    return went;
}

static int put_end(int fd, Request *request)
{
    char data[512], bytes[2048];
    sprintf(data, FRAME "\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}",
            request->number);
    int size = event(bytes, data);
    if (request->usage) {
        sprintf(data, FRAME "\"choices\":[],\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":%d,"
                "\"total_tokens\":%d}}", request->number, request->sent, request->sent + 8);
        size += event(bytes + size, data);
    }
    size += event(bytes + size, "[DONE]");
    size += sprintf(bytes + size, "0\r\n\r\n");
    return put(fd, bytes, size);
}

static void serve_due(void)
{
    while (heap_size && due_at(0) <= now_ns()) {
        int fd = heap[0];
        Request *request = peers[fd]->playing;
        if (!put_token(fd, request)) { drop(fd); continue; }
        if (request->sent < request->wanted) {
            request->due = pace(request->due);
            sink(0);
            continue;
        }
        heap[0] = heap[--heap_size];
        sink(0);
        peers[fd]->playing = NULL;
        if (!put_end(fd, request) || request->close) drop(fd);
    }
    struct itimerspec at = {0};
    if (heap_size) {
        at.it_value.tv_sec = due_at(0) / 1000000000;
        at.it_value.tv_nsec = due_at(0) % 1000000000;
    }
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

/* Requests */

static int number_after(const char *body, const char *key, int otherwise)
{
    const char *at = strstr(body, key);
    if (!at) return otherwise;
    at += strlen(key);
    at += strspn(at, " :");
    int value = atoi(at);
    return value > 0 ? value : otherwise;
}

static int is_true_after(const char *body, const char *key)
{
    const char *at = strstr(body, key);
    if (!at) return 0;
    at += strlen(key);
    at += strspn(at, " :");
    return !strncmp(at, "true", 4);
}

static void begin(int fd, char *head, char *body, int64_t arrived)
{
    int asked = number_after(body, "\"max_tokens\"", number_after(body, "\"max_completion_tokens\"", tokens));
    int wanted = asked < tokens ? asked : tokens;
    Request *request = calloc(1, sizeof *request + wanted * sizeof(Token));
    if (!request) die("calloc");
    request->number = requests++;
    request->connection = peers[fd]->id;
    request->wanted = wanted;
    request->usage = is_true_after(body, "\"include_usage\"");
    request->close = strcasestr(head, "\r\nconnection: close") != NULL;
    request->arrived = arrived;
    request->due = arrived + ttft_ns;
    if (together) request->due = pace(request->due - 1);
    *last = request;
    last = &request->next;
    static const char said[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                               "Transfer-Encoding: chunked\r\n\r\n";
    peers[fd]->playing = request;
    push(fd);
    if (!put(fd, said, sizeof said - 1)) drop(fd);
}

static void tell_models(int fd)
{
    static const char body[] = "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":1764000000,"
                               "\"owned_by\":\"nobody\"}]}";
    char bytes[512];
    int size = sprintf(bytes, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                       sizeof body - 1, body);
    if (!put(fd, bytes, size)) drop(fd);
}

/* Answer what has come in whole; one request at a time, as clients of HTTP/1.1 send them. */
static void take(int fd, int64_t arrived)
{
    Connection *peer = peers[fd];
    peer->pending[peer->have] = 0;
    char *end = strstr(peer->pending, "\r\n\r\n");
    if (!end) return;
    *end = 0;
    char *field = strcasestr(peer->pending, "\r\ncontent-length:");
    size_t length = field ? strtoul(field + 17, NULL, 10) : 0, whole = end + 4 - peer->pending + length;
    if (peer->have < whole) { *end = '\r'; return; }
    peer->have = 0; /* what was read stays where it is until the next read */
    if (peer->playing) drop(fd);
    else if (!strncmp(peer->pending, "POST", 4)) begin(fd, peer->pending, end + 4, arrived);
    else tell_models(fd);
}

static void receive(int fd)
{
    Connection *peer = peers[fd];
    if (peer->room - peer->have < 65536) {
        peer->room = peer->room ? peer->room * 2 : 1 << 17;
        peer->pending = peer->room > REQUEST_BYTES * 2 ? NULL : realloc(peer->pending, peer->room);
        if (!peer->pending) die("a request is too long");
    }
    char control[64];
    struct iovec into = {peer->pending + peer->have, peer->room - peer->have - 1};
    struct msghdr message = {.msg_iov = &into, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(fd, &message, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { drop(fd); return; }
    peer->have += got;
    int64_t arrived = now_ns();
    for (struct cmsghdr *each = CMSG_FIRSTHDR(&message); each; each = CMSG_NXTHDR(&message, each))
        if (each->cmsg_level == SOL_SOCKET && each->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec stamp;
            memcpy(&stamp, CMSG_DATA(each), sizeof stamp);
            arrived = stamp.tv_sec * 1000000000LL + stamp.tv_nsec - wall_offset_ns();
        }
    take(fd, arrived);
}

static void watch(int fd)
{
    struct epoll_event wanted = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wanted)) die("epoll_ctl");
}

static void welcome(int listener)
{
    int fd, yes = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MOST_CONNECTIONS) die("too many connections");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        peers[fd] = calloc(1, sizeof *peers[fd]);
        peers[fd]->id = connections++;
        watch(fd);
    }
}

static void write_log(const char *path)
{
    FILE *log = fopen(path, "w");
    if (!log) die(path);
    for (Request *request = first; request; request = request->next) {
        fprintf(log, "%d %d %lld", request->number, request->connection, (long long)request->arrived);
        for (Token *token = request->tokens; token < request->tokens + request->sent; token++)
            fprintf(log, " %lld %lld %lld", (long long)token->due, (long long)token->before, (long long)token->after);
        fputc('\n', log);
    }
    if (fclose(log)) die(path);
}

static int listening(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_TIMESTAMPNS, &yes, sizeof yes); /* what it accepts inherits it */
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, BACKLOG)) die("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("http://127.0.0.1:%d/v1\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(int count, char **given)
{
    if (count != 6) { fputs("server TTFT_MS ITL_MS TOKENS staggered|together LOG\n", stderr); return 2; }
    ttft_ns = atof(given[1]) * 1e6;
    itl_ns = atof(given[2]) * 1e6;
    tokens = atoi(given[3]);
    together = !strcmp(given[4], "together");
    /* So that no client keeps it from a core between a stamp and its send. Not everybody may; then it goes without. */
    sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){.sched_priority = 1});
    poller = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    int listener = listening(), on = 1;
    watch(listener);
    watch(timer);
    watch(STDIN_FILENO);
    while (on) {
        struct epoll_event ready[256];
        int n = epoll_wait(poller, ready, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == STDIN_FILENO) { char byte; on = read(fd, &byte, 1) > 0; }
            else if (fd == timer) { uint64_t times; if (read(timer, &times, 8) < 0 && errno != EAGAIN) die("timer"); }
            else if (fd == listener) welcome(listener);
            else if (peers[fd]) receive(fd);
        }
        serve_due();
    }
    write_log(given[5]);
    return 0;
}
