"""One look at the endpoint before any load: is it up, which model does it serve, does one request work?

Done with aiohttp: nothing here is timed. What is wrong is told in one sentence with the endpoint's own words.
"""

import asyncio
import errno
import os
import ssl
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeAlias

import aiohttp
import orjson

from loadgen import __version__
from loadgen.dialects.answer import CONTENT, Answer, Ask, words_of_error
from loadgen.dialects.dialect import MALFORMED, NOT_EVENTS, WANTED, Description, Dialect
from loadgen.errors import EndpointError
from loadgen.plan import Endpoint
from loadgen.trust import tls
from loadgen.wire import SPLITTERS

Fields: TypeAlias = Sequence[tuple[str, str]]
"""Headers, see dialects.credentials.header_fields."""

# A model that has to be loaded first can take minutes over its first token.
PROBE_TIMEOUT_S: Final = 300.0
MODELS_TIMEOUT_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 10.0

PROMPT: Final = "Say a few words about the weather."
MAX_OUTPUT_TOKENS: Final = 8
MAX_BODY_BYTES: Final = 1 << 20
MOST_PIECES: Final = 256
"""Of a body, that are looked at for the time of the output in them."""

# Of X509_V_ERR_...: the certificate is for another host name, or address; it has expired.
OTHER_NAME: Final = (62, 64)
EXPIRED: Final = 10

HINTS: Final = {
    401: "is {variable} set to a key of this endpoint?",
    403: "is {variable} set to a key of this endpoint?",
    404: "is the path right, and does the endpoint serve this model?",
    405: "is the path right?",
}

# Statuses that a field of the body is no reason for.
NOT_THE_BODY: Final = (401, 403, 404, 405, 408, 413, 429)

# Finish reasons of an answer that was cut, by which a model that thinks in secret shows that it works.
CUT: Final = ("length", "max_tokens", "MAX_TOKENS")

NAMELESS: Final = "unknown"
"""The model of an endpoint that serves one and does not say which."""


class Pace(NamedTuple):
    """How an answer came: its first and its last output, s after the request began, and the output tokens."""

    first_s: float
    last_s: float
    tokens: int

    def response_s(self, tokens: float) -> float:
        """How long an answer of so many tokens takes at this pace; where all came at once, no longer than this one did."""
        if self.tokens < 2 or self.last_s <= self.first_s:
            return self.last_s
        return self.first_s + (self.last_s - self.first_s) / (self.tokens - 1) * max(tokens - 1, 0)


class Checked(NamedTuple):
    """What the check has learned."""

    answer: Answer
    pace: Pace
    takes_stream_options: bool
    """False where the endpoint refused to be asked for usage, and answered when it was not."""


def find_model(
    where: Endpoint, dialect: Dialect, fields: Fields = (), *, connect_timeout_s: float = CONNECT_TIMEOUT_S
) -> str:
    """The first model that the endpoint lists. EndpointError if it lists none and requests have to name one."""
    return asyncio.run(_find_model(where, dialect, fields, connect_timeout_s))


def find_api(
    where: Endpoint, dialect: Dialect, model: str, fields: Fields = (), *, connect_timeout_s: float = CONNECT_TIMEOUT_S
) -> str:
    """What the endpoint says it speaks, where its URL leaves that open; the dialect's own name where it does not say."""
    if dialect.description is None:
        return dialect.name
    return asyncio.run(_find_api(where, dialect, dialect.description, model, fields, connect_timeout_s))


def check(
    where: Endpoint,
    dialect: Dialect,
    model: str,
    fields: Fields = (),
    *,
    ignore_eos: bool,
    images: tuple[str, ...] = (),
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    timeout_s: float = PROBE_TIMEOUT_S,
) -> Checked:
    """Have one short request answered, within PROBE_TIMEOUT_S and `timeout_s`. EndpointError, with the endpoint's words,
    if that does not work.

    A dialect that asks for usage in `stream_options` is tried without if the endpoint refuses the request with them.
    """
    ask = Ask(model, PROMPT, MAX_OUTPUT_TOKENS, ignore_eos, images=images)
    limits = (connect_timeout_s, min(timeout_s, PROBE_TIMEOUT_S))
    try:
        return Checked(*asyncio.run(_ask_once(where, dialect, ask, fields, *limits)), True)
    except EndpointError as error:
        status = error.error_class.removeprefix("http-4")
        if len(status) != 2 or int("4" + status) in NOT_THE_BODY or "stream_options" not in dialect.body(ask):
            raise
        bare = dialect.worded(replace(dialect.wording, usage="none"))
        try:
            return Checked(*asyncio.run(_ask_once(where, bare, ask, fields, *limits)), False)
        except EndpointError:
            raise error from None


def ask_once(
    where: Endpoint, dialect: Dialect, ask: Ask, fields: Fields = (), *, connect_timeout_s: float = CONNECT_TIMEOUT_S
) -> Answer:
    """What the endpoint says of one request, once it has been answered in full. EndpointError if it is not."""
    return asyncio.run(_ask_once(where, dialect, ask, fields, connect_timeout_s, PROBE_TIMEOUT_S))[0]


def base_url(where: Endpoint) -> str:
    """scheme://host:port of the target."""
    host = f"[{where.host}]" if ":" in where.host else where.host
    return f"{'https' if where.tls else 'http'}://{host}:{where.port}"


def _signed(fields: Fields) -> dict[str, str]:
    """With the tool's name where the user gives none: who finds it in a log shall know what it was."""
    named = any(name.lower() == "user-agent" for name, _ in fields)
    return dict(fields) if named else {"User-Agent": f"loadgen/{__version__}", **dict(fields)}


def _session(where: Endpoint, fields: Fields, timeout_s: float, connect_timeout_s: float) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls(where.tls_ca, where.insecure)),
        headers=_signed(fields),
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=connect_timeout_s),
        read_bufsize=1 << 20,
    )


async def _find_model(where: Endpoint, dialect: Dialect, fields: Fields, connect_timeout_s: float) -> str:
    listing = dialect.listing
    if listing is None:
        if dialect.needs_model:
            raise EndpointError("no-model", f"--model: not given, and the {dialect.name} API lists none")
        return NAMELESS
    url = base_url(where) + dialect.listing_path(where.path.partition("?")[0])
    async with _session(where, fields, MODELS_TIMEOUT_S, connect_timeout_s) as session:
        status, _, body = await _ask(session, where, listing.method, url, None)
    try:
        return listing.names(orjson.loads(body) if status == 200 else None)[0]
    except (ValueError, TypeError, KeyError, IndexError):
        if not dialect.needs_model:
            return NAMELESS
        hint = _hint(status, dialect) if status in (401, 403) else ""
        said = f"status {status}: {words_of_error(body)}{hint and f'; {hint}'}"
        raise EndpointError("no-model", f"--model: not given, and {url} lists none ({said})") from None


async def _find_api(
    where: Endpoint, dialect: Dialect, description: Description, model: str, fields: Fields, connect_timeout_s: float
) -> str:
    url = base_url(where) + dialect.path_to(description.path, model)
    async with _session(where, fields, MODELS_TIMEOUT_S, connect_timeout_s) as session:
        status, _, body = await _ask(session, where, "GET", url, None)
    try:
        api = description.api(orjson.loads(body)) if status == 200 else None
    except MALFORMED:
        api = None
    return api or dialect.name


async def _ask_once(
    where: Endpoint, dialect: Dialect, ask: Ask, fields: Fields, connect_timeout_s: float, timeout_s: float
) -> tuple[Answer, Pace]:
    url, arrived = base_url(where) + where.path, list[tuple[float, int]]()
    async with _session(where, fields, timeout_s, connect_timeout_s) as session:
        began_s = time.monotonic()
        status, content_type, data = await _ask(session, where, "POST", url, dialect.body(ask), arrived)
    if not 200 <= status < 300:
        words, hint = words_of_error(data), _hint(status, dialect)
        if "max_completion_tokens" in words and status == 400:
            hint = "give --max-tokens-field max_completion_tokens"
        raise EndpointError(f"http-{status}", f"{url} answered {status}: {words}{hint and f' ({hint})'}")
    if content_type in NOT_EVENTS[dialect.framing]:
        raise EndpointError(
            "not-a-stream",
            f"{url} answered {content_type} instead of {WANTED[dialect.framing]}: {words_of_error(data)}",
        )
    answer, n_output = Answer(), 0
    whole = len(data) <= MAX_BODY_BYTES
    for payload in SPLITTERS[dialect.framing](data, at_start=True, final=whole).payloads:
        try:
            n_output += dialect.read(payload, answer) >= CONTENT
        except MALFORMED:
            words = words_of_error(payload)
            raise EndpointError(
                "bad-event", f"{url} streamed an event that is no {dialect.name} event: {words}"
            ) from None
    if answer.error_words is not None:
        raise EndpointError("server-error", f"{url} streamed an error: {answer.error_words}")
    if not n_output and not (answer.output_tokens and answer.finish_reason in CUT):
        why = f"finish reason {answer.finish_reason!r}" if answer.finish_reason else f"{len(data)} bytes"
        raise EndpointError("empty", f"{url} answered {status} without any output ({why})")
    return answer, _pace(dialect, data, arrived, began_s, n_output, answer.output_tokens or n_output)


def _pace(
    dialect: Dialect, data: bytes, arrived: Sequence[tuple[float, int]], began_s: float, n_output: int, tokens: int
) -> Pace:
    """Of an answer whose bytes had `arrived` up to such a length at such a time."""
    end_s = (arrived[-1][0] if arrived else time.monotonic()) - began_s
    first_s = last_s = None
    for at_s, length in arrived[:MOST_PIECES]:
        so_far, there = Answer(), 0
        for payload in SPLITTERS[dialect.framing](data[:length], at_start=True, final=False).payloads:
            there += dialect.read(payload, so_far) >= CONTENT
        if there and first_s is None:
            first_s = at_s - began_s
        if there >= n_output:
            last_s = at_s - began_s
            break
    last_s = end_s if last_s is None or not n_output else last_s
    return Pace(last_s if first_s is None else first_s, last_s, tokens)


async def _ask(
    session: aiohttp.ClientSession,
    where: Endpoint,
    method: str,
    url: str,
    body: dict[str, Any] | None,
    arrived: list[tuple[float, int]] | None = None,
) -> tuple[int, str, bytes]:
    """(status, content type, body), at most MAX_BODY_BYTES of it. EndpointError if there is no answer.

    `arrived` takes when how much of the body was there.
    """
    has_begun = False
    try:
        async with session.request(method, url, json=body, proxy=where.proxy, allow_redirects=False) as response:
            data, has_begun = bytearray(), True
            async for piece in response.content.iter_any():
                data += piece
                if arrived is not None:
                    arrived.append((time.monotonic(), len(data)))
                if len(data) > MAX_BODY_BYTES:
                    break
            if response.status in (301, 302, 303, 307, 308):
                where_to = response.headers.get("Location", "nowhere")
                raise EndpointError(f"http-{response.status}", f"{url} redirects to {where_to}; give that URL instead")
            return response.status, response.content_type if "Content-Type" in response.headers else "", bytes(data)
    except aiohttp.ClientConnectorDNSError as error:
        raise EndpointError("dns", f"{where.host} could not be resolved: {error.os_error.strerror or error}") from None
    except aiohttp.ClientConnectorCertificateError as error:
        raise EndpointError("tls-certificate", _distrust(where.host, error.certificate_error)) from None
    except aiohttp.ClientConnectorSSLError as error:
        raise EndpointError("tls", f"no TLS with {where.host}:{where.port}: {error.os_error}; is it http://?") from None
    except aiohttp.ClientProxyConnectionError as error:
        proxy = f"{error.host}:{error.port}"
        raise EndpointError(
            "connect-failed", f"cannot connect to the proxy {proxy}: {_words(error.os_error)}"
        ) from None
    except aiohttp.ClientConnectorError as error:
        kind = "connect-refused" if isinstance(error.os_error, ConnectionRefusedError) else "connect-failed"
        raise EndpointError(kind, f"cannot connect to {where.host}:{where.port}: {_words(error.os_error)}") from None
    except aiohttp.ConnectionTimeoutError:
        limit_s = session.timeout.sock_connect
        raise EndpointError(
            "timeout-connect", f"cannot connect to {where.host}:{where.port}: no answer within {limit_s:g} s"
        ) from None
    except TimeoutError:
        raise EndpointError(
            "timeout-total", f"{url} did not answer in full within {session.timeout.total:g} s"
        ) from None
    except aiohttp.ClientError as error:
        if isinstance(error, aiohttp.ClientResponseError) and "Bad status line" in error.message:
            words = "another protocol, or HTTP/2 alone?"
            raise EndpointError("bad-http", f"{url} answered, but not in HTTP/1.1 ({words})") from None
        is_silent = not has_begun and isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))
        hint = " (is it https://?)" if is_silent and not where.tls else ""
        raise EndpointError("bad-http", f"{url} broke off: {str(error) or type(error).__name__}{hint}") from None


def _hint(status: int, dialect: Dialect) -> str:
    """What to look at after such a status; "" where nothing is likelier than anything else."""
    return HINTS[status].format(variable=" or ".join(dialect.key_variables)) if status in HINTS else ""


def _distrust(host: str, error: Exception) -> str:
    """Why a certificate is not believed, and what helps: more certificates to trust only where nobody known signed it."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {host} is not trusted: {error}"
    words = f"the certificate of {host} is not trusted: {error.verify_message.rstrip('.')}"
    if error.verify_code in OTHER_NAME:
        return f"{words} (give --url with a name that it is for, or --insecure)"
    return (
        f"{words} ({'--insecure does not ask' if error.verify_code == EXPIRED else '--tls-ca FILE names one to trust'})"
    )


def _words(error: OSError) -> str:
    """The system's words; asyncio puts its own, with the address in Python's notation, into strerror."""
    return os.strerror(error.errno).lower() if error.errno and error.errno in errno.errorcode else str(error)
