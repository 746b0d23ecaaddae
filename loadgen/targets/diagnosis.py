"""Finds why a server or one of its models cannot be used, and what to do about it, as one line.

May send the server one or two more requests, but no chat. Knows no plan.
"""

import json
import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from loadgen.errors import TargetError
from loadgen.record import Reply
from loadgen.redact import redact_keys, redact_url
from loadgen.scenario.urls import address_of, base_url, route_url
from loadgen.targets.openai import ask_models
from loadgen.targets.served import ModelList, Served
from loadgen.targets.tls import speaks_tls
from loadgen.wire.loading import says_loading
from loadgen.wire.redirects import redirect_of
from loadgen.wire.refusal import REFUSED, named_keys

CERTIFICATES: Final = "SSL_CERT_FILE"
_USUAL_PATHS: Final = ("/v1", "/v3", "/api/v1", "/openai/v1", "/v1/openai", "/api", "")
"""The usual paths of an API: OpenVINO Model Server has it at /v3, Groq and gateways have other paths."""
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "record layer failure", "HTTP_REQUEST")
_NOT_TRUSTED: Final = ("CERTIFICATE_VERIFY_FAILED", "certificate verify failed")
_NO_HOST: Final = ("name or service not known", "nodename nor servname", "getaddrinfo failed", "no address associated")
_TLS_WANTED: Final = re.compile(r"HTTP request (?:was sent )?to (?:an )?HTTPS|instead use the HTTPS", re.IGNORECASE)
_NO_MODEL: Final = re.compile(
    r"model_not_found|(?:invalid|unknown|no such) model|model\b.{0,100}?\b(?:not found|not exist|not available)",
    re.IGNORECASE,
)
_MAY_BE_LEFT_OUT: Final = frozenset(("stream", "stream_options", "temperature", "seed", "top_p", "cache_prompt"))
_BODY_KEYS: Final = ("max_tokens", "stop", *_MAY_BE_LEFT_OUT)
_REMEDY_OF_LOADING: Final = "wait longer (--ready), or look at the server's log"
_OTHER_MODEL: Final = "use a model that the server lists"
_MAX_NAMES: Final = 12


async def chat_error(served: Served, reply: Reply, loading: str | None) -> TargetError:
    """Why a model cannot be used, whose server did not answer a chat.

    loading: what says that the server is still loading, although it was waited for; None if nothing says so.
    """
    base, detail = served.base_url, reply.detail or ""
    status = f" {reply.status}" if reply.status else ""
    text = f"it does not answer the test chat: {reply.outcome}{status}: {detail}"
    lower = detail.lower()
    if "memory" in lower or "bad_alloc" in lower:
        remedy = "unload other models, or use a smaller variant"
        return TargetError(text, problem="out_of_memory", remedy=remedy)
    if loading is not None:
        return TargetError(f"{text}: {loading}", problem="cold", remedy=_REMEDY_OF_LOADING)
    moved = await _moved_error(base, served.headers) if _may_be_redirected(base, reply) else None
    if moved is not None:
        return moved
    if reply.status is None or _TLS_WANTED.search(detail):
        known = await _connection_error(base, reply.outcome, detail)
        if known is not None:
            return known
    if reply.outcome == "timeout":
        return TargetError(text, problem="cold", remedy="the model may still be loading; warm it up, then run again")
    if reply.status in {401, 403}:
        return TargetError(text, problem="no_key", remedy=_remedy_of_refusal(served.headers))
    models = served.models
    if not models.entries and reply.outcome in {"http_error", "not_streamed"}:  # it may have been loading until now
        models = await ask_models(base, served.headers)
    if _is_wrong_path(reply, models):
        return await _path_error(base, served.headers, f"http_error{status}" if status else reply.outcome)
    if reply.status == 404 or (reply.status in REFUSED and _NO_MODEL.search(detail)):
        remedy = _remedy_of_unknown_model(served.card.id, models.names)
        return TargetError(text, problem="not_in_catalog", remedy=remedy)
    return TargetError(text, remedy=_remedy_of_refused_body(reply))


def _remedy_of_unknown_model(wanted: str, names: tuple[str, ...]) -> str:
    """What to do if a server does not know a model in a chat. names: the models that it lists, perhaps also this."""
    others = tuple(name for name in names if name != wanted)
    if wanted not in names:
        return f"use one of the models that the server lists: {shown_names(names)}" if names else _OTHER_MODEL
    if not others:
        return "the server lists it, but does not serve it; load it there first"
    return f"the server lists it, but does not serve it; load it there first, or use another: {shown_names(others)}"


def _remedy_of_refused_body(reply: Reply) -> str:
    """What to change in what is asked, as far as the server says what it does not take."""
    named = named_keys((reply.detail or "").encode(), _BODY_KEYS)
    if named.values:
        key = named.values[0]
        how = "with --max-tokens, or as sampling.max_tokens" if key == "max_tokens" else f"as sampling.{key}"
        return f"the server accepts {key}, but not this value; set another one {how}"
    if reply.status == 429:
        return 'wait until the server accepts requests again, or retry them: [retries] with on = ["http_429"]'
    keys = [key for key in (*named.named, *named.mentioned) if key in _MAY_BE_LEFT_OUT]
    if keys == ["stream"] or (reply.outcome == "not_streamed" and '"choices"' in (reply.detail or "")):
        return "turn off streaming: --set sampling.stream=false"
    if keys:
        return f"leave out the keys that it refuses: --set 'sampling.omit={json.dumps(keys)}'"
    if reply.status in REFUSED:
        return "try the same chat with curl; sampling.omit leaves out keys that the server refuses"
    return "try the same chat with curl, and look at the server's log"


async def models_error(base: str, headers: dict[str, str], models: ModelList) -> TargetError:
    """Why the server at a base URL lists no model. A server without a list may still answer chats."""
    url = redact_url(route_url(base, "models"))
    detail = models.error or ""
    if models.status is None or _TLS_WANTED.search(detail):
        known = await _connection_error(base, "connect_error", detail)
        if known is not None:
            return known
        return TargetError(f"{url} does not answer: {detail}", problem="no_service", remedy="look at the server's log")
    if says_loading(detail.partition(": ")[2].encode()):
        message = f"{url} does not list any model: {detail}"
        return TargetError(message, problem="cold", remedy=_REMEDY_OF_LOADING)
    moved = await _moved_error(base, headers) if models.status in {401, 403, 404, 405} else None
    if moved is not None:
        return moved
    if models.status in {401, 403}:
        return TargetError(f"{url}: {detail}", problem="no_key", remedy=_remedy_of_refusal(headers))
    if models.status in {404, 405} or "a web page" in detail:
        return await _path_error(base, headers, detail)
    remedy = "load a model there first" if models.status == 200 else "look at the server's log"
    return TargetError(f"{url} does not list any model: {detail}", problem="not_in_catalog", remedy=remedy)


def shown_names(names: tuple[str, ...]) -> str:
    """The first of the names that a server lists, and how many more there are."""
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(sorted(names)[:_MAX_NAMES]) + more


def _remedy_of_refusal(headers: dict[str, str]) -> str:
    """What to do if the server requires a key."""
    if any(name.lower() == "authorization" or redact_keys(value) != value for name, value in headers.items()):
        return "the server refused the key; check that it is the right one for this server"
    return "set LOADGEN_API_KEY to a key for this server, or send the header that it requires with --header"


# The connection


async def _connection_error(base: str, outcome: str, detail: str) -> TargetError | None:
    """The meaning of an error of the connection; None if it is not among the known ones."""
    parts = urlsplit(base)
    place = f"{parts.scheme}://{parts.netloc}"
    cause = _cause(detail)
    if any(sign in detail for sign in _NOT_TRUSTED):
        return _certificate_error(place, parts.hostname or "", f"{outcome}: {cause}")
    if any(sign in detail for sign in _NO_TLS):
        message = f"{parts.netloc} does not speak TLS ({outcome}: {cause})"
        return TargetError(message, problem="no_service", remedy=f"write {redact_url(_with_scheme(base, 'http'))}")
    if any(sign in detail.lower() for sign in _NO_HOST):
        message = f"no host has the name {parts.hostname} ({outcome}: {cause})"
        return TargetError(message, problem="no_service", remedy="check the spelling, or write its IP address")
    if "Connect call failed" in detail or "refused" in detail.lower():
        message = f"nothing listens at {parts.netloc} ({outcome}: {cause})"
        return TargetError(message, problem="no_service", remedy="check that the server is running there")
    if parts.scheme == "http" and await speaks_tls(base):
        message = f"{parts.netloc} speaks TLS, but the address says http ({outcome}: {cause})"
        return TargetError(message, problem="no_service", remedy=f"write {redact_url(_with_scheme(base, 'https'))}")
    if outcome == "connect_error":
        message = f"{place} cannot be reached ({outcome}: {cause})"
        return TargetError(message, problem="no_service", remedy="check that the server is running there")
    return None


def _certificate_error(place: str, host: str, cause: str) -> TargetError:
    lower = cause.lower()
    if "mismatch" in lower or "not valid for" in lower:
        message = f"the certificate of {place} is for another name than {host}"
        remedy = "use the name in the certificate"
    elif "expired" in lower:
        message, remedy = f"the certificate of {place} has expired", "renew it, or set the clock of this machine"
    elif "not yet valid" in lower:
        message, remedy = f"the certificate of {place} is not valid yet", "set the clock of this machine"
    else:
        message, remedy = f"the certificate of {place} is not trusted", _remedy_of_distrust()
    return TargetError(f"{message} ({cause})", problem="not_trusted", remedy=remedy)


def _remedy_of_distrust() -> str:
    file = os.environ.get(CERTIFICATES, "").strip()
    if not file:
        return f"name the file with its issuer's certificate: {CERTIFICATES}=ca.pem"
    if not Path(file).is_file():
        return f"{CERTIFICATES} names {file}, which is not a file; name the file with its issuer's certificate"
    return f"the certificates in {CERTIFICATES}={file} do not include its issuer's; add it"


def _cause(detail: str) -> str:
    """The text in the innermost brackets of an error of aiohttp."""
    text = re.sub(r"^Cannot connect to host \S+ ssl:\S+ \[(.*)\]$", r"\1", detail)
    text = re.sub(r"^\w+: \(\d+, ['\"](?:\[[^\]]*\] )?(.*?)(?: \(_ssl\.c:\d+\))?['\"]\)$", r"\1", text)
    return text.strip("[]")


def _with_scheme(base: str, scheme: str) -> str:
    return urlsplit(base)._replace(scheme=scheme).geturl()


# The path


def _is_wrong_path(reply: Reply, models: ModelList) -> bool:
    """Whether there is no API at the base URL: neither of its routes exists, and the error is not about the model."""
    if models.entries or (models.status == 200 and models.error is not None and "a web page" not in models.error):
        return False
    detail = (reply.detail or "").lower()
    if reply.status in {404, 405}:
        return "model" not in detail.replace("/models", "")  # some errors list the routes that there are
    return reply.outcome == "not_streamed" and "<" in detail


def _may_be_redirected(base: str, reply: Reply) -> bool:
    """Whether what came of a chat may be of another place: aiohttp asks there with GET, and without our headers; and
    without https in the address, nothing but a redirect leads to TLS."""
    if reply.status is None:
        signs = (*_NO_TLS, *_NOT_TRUSTED)
        return base.startswith("http:") and any(sign in (reply.detail or "") for sign in signs)
    return reply.outcome == "not_streamed" or reply.status in {301, 302, 303, 307, 308, 401, 403, 404, 405}


async def _moved_error(base: str, headers: dict[str, str]) -> TargetError | None:
    """That a server sends whoever asks for the list of its models to another base; None where it does not."""
    target = await redirect_of(route_url(base, "models"), headers)
    if target is None or urlsplit(target).scheme not in ("http", "https"):
        return None
    other = base_url(target)
    if other.partition("?")[0] == base.partition("?")[0]:
        return None
    shown = redact_keys(redact_url(address_of(other)))
    message = f"{redact_url(base)} redirects to {shown}, and a chat loses its body or its key on the way"
    is_api = urlsplit(target).path.rstrip("/").endswith("/models")
    remedy = f"write {shown}" if is_api else "that is no API; write the API's address behind the login or the proxy"
    return TargetError(message, problem="wrong_path", remedy=remedy)


async def _path_error(base: str, headers: dict[str, str], cause: str) -> TargetError:
    """The error that there is no API at the path of a URL. Its remedy names a usual path at which models are listed, if
    there is one."""
    place, _, query = base.partition("?")
    parts = urlsplit(place)
    root = f"{parts.scheme}://{parts.netloc}"
    remedy = f"write the server's base path, such as {root}/v3, or serve its API at {parts.path or '/'}"
    for path in _USUAL_PATHS:
        other = f"{root}{path}" + (f"?{query}" if query else "")
        if other != base and (await ask_models(other, headers)).entries:
            remedy = f"write {redact_url(address_of(other))}, which is the API of this server"
            break
    message = f"{redact_url(base)} is not the base path of an OpenAI-compatible API ({cause}); the path is wrong"
    return TargetError(message, problem="wrong_path", remedy=remedy)
