"""One look at the endpoint before any load: is it up, which model does it serve, does one request work?

Done with aiohttp: nothing here is timed. What is wrong is told in one sentence with the endpoint's own words.
"""

import asyncio
import errno
import os
import ssl
from collections.abc import Sequence
from typing import Any, Final

import aiohttp
import orjson

from loadgen.dialects import DIALECTS
from loadgen.dialects.answer import CONTENT, Answer, Ask, words_of_error
from loadgen.errors import EndpointError
from loadgen.plan import Target
from loadgen.wire.sse import split_events

# A model that has to be loaded first can take minutes over its first token.
PROBE_TIMEOUT_S: Final = 300.0
MODELS_TIMEOUT_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 10.0

PROMPT: Final = "Say a few words about the weather."
MAX_OUTPUT_TOKENS: Final = 8
MAX_BODY_BYTES: Final = 1 << 20

HINTS: Final = {
    401: "is OPENAI_API_KEY set to a key of this endpoint?",
    403: "is OPENAI_API_KEY set to a key of this endpoint?",
    404: "is the path right, and does the endpoint serve this model?",
    405: "is the path right?",
}


def find_model(where: Target, api: str, key: str | None, *, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> str:
    """The first model that the endpoint lists. EndpointError if it lists none."""
    return asyncio.run(_find_model(where, api, key, connect_timeout_s))


def check(
    where: Target,
    api: str,
    model: str,
    key: str | None,
    *,
    ignore_eos: bool,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
) -> None:
    """Have one short request answered. EndpointError, with the endpoint's words, if that does not work."""
    asyncio.run(_check(where, api, model, key, ignore_eos, connect_timeout_s))


def prompt_tokens(
    where: Target,
    api: str,
    prompts: Sequence[str],
    model: str,
    key: str | None,
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
) -> list[int]:
    """How many tokens the endpoint counts for each of these prompts. EndpointError if it does not say."""
    return asyncio.run(_prompt_tokens(where, api, prompts, model, key, connect_timeout_s))


def base_url(where: Target) -> str:
    """scheme://host:port of the target."""
    host = f"[{where.host}]" if ":" in where.host else where.host
    return f"{'https' if where.tls else 'http'}://{host}:{where.port}"


def _session(where: Target, key: str | None, timeout_s: float, connect_timeout_s: float) -> aiohttp.ClientSession:
    context: ssl.SSLContext | bool = True
    if where.insecure:
        context = False
    elif where.tls_ca:
        context = ssl.create_default_context(cafile=where.tls_ca)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=connect_timeout_s),
        read_bufsize=1 << 20,
    )


async def _find_model(where: Target, api: str, key: str | None, connect_timeout_s: float) -> str:
    route: str = DIALECTS[api].PATH
    path = where.path.partition("?")[0].removesuffix(route) + "/models"
    url = base_url(where) + path
    async with _session(where, key, MODELS_TIMEOUT_S, connect_timeout_s) as session:
        status, _, body = await _ask(session, where, "GET", url, None)
    try:
        models = orjson.loads(body)["data"] if status == 200 else []
        return str(models[0]["id"])
    except (ValueError, TypeError, KeyError, IndexError):
        raise EndpointError(
            "no-model", f"--model: not given, and {url} lists none (status {status}: {words_of_error(body)})"
        ) from None


async def _prompt_tokens(
    where: Target, api: str, prompts: Sequence[str], model: str, key: str | None, connect_timeout_s: float
) -> list[int]:
    dialect = DIALECTS[api]
    url = base_url(where) + where.path
    counts: list[int] = []
    async with _session(where, key, PROBE_TIMEOUT_S, connect_timeout_s) as session:
        for prompt in prompts:
            status, _, data = await _ask(session, where, "POST", url, dialect.body(Ask(model, prompt, 1, False)))
            answer = Answer()
            for payload in split_events(data, at_start=True, final=True).payloads if status == 200 else ():
                try:
                    dialect.read(payload, answer)
                except (ValueError, TypeError, KeyError, IndexError, AttributeError):
                    continue
            if answer.prompt_tokens is None:
                words = answer.error_words or (words_of_error(data) if status != 200 else "there is no usage in it")
                raise EndpointError(
                    "no-usage",
                    f"--calibrate-prompts: {url} does not say how many tokens a prompt has (status {status}: {words}); "
                    "leave it out",
                )
            counts.append(answer.prompt_tokens)
    return counts


async def _check(
    where: Target, api: str, model: str, key: str | None, ignore_eos: bool, connect_timeout_s: float
) -> None:
    dialect = DIALECTS[api]
    body = dialect.body(Ask(model, PROMPT, MAX_OUTPUT_TOKENS, ignore_eos))
    url = base_url(where) + where.path
    async with _session(where, key, PROBE_TIMEOUT_S, connect_timeout_s) as session:
        status, content_type, data = await _ask(session, where, "POST", url, body)
    if not 200 <= status < 300:
        hint = f" ({HINTS[status]})" if status in HINTS else ""
        raise EndpointError(f"http-{status}", f"{url} answered {status}: {words_of_error(data)}{hint}")
    if content_type in ("application/json", "text/html"):
        raise EndpointError(
            "not-a-stream",
            f"{url} answered {content_type} instead of an event stream: {words_of_error(data)}",
        )
    answer, n_output = Answer(), 0
    whole = len(data) <= MAX_BODY_BYTES
    for payload in split_events(data, at_start=True, final=whole).payloads:
        try:
            n_output += dialect.read(payload, answer) >= CONTENT
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            words = words_of_error(payload)
            raise EndpointError("bad-event", f"{url} streamed an event that is no {api} event: {words}") from None
    if answer.error_words is not None:
        raise EndpointError("server-error", f"{url} streamed an error: {answer.error_words}")
    if not n_output:
        why = f"finish reason {answer.finish_reason!r}" if answer.finish_reason else f"{len(data)} bytes"
        raise EndpointError("empty", f"{url} answered {status} without any output ({why})")


async def _ask(
    session: aiohttp.ClientSession, where: Target, method: str, url: str, body: dict[str, Any] | None
) -> tuple[int, str, bytes]:
    """(status, content type, body), at most MAX_BODY_BYTES of it. EndpointError if there is no answer."""
    try:
        async with session.request(method, url, json=body, proxy=where.proxy, allow_redirects=False) as response:
            data = bytearray()
            async for piece in response.content.iter_any():
                data += piece
                if len(data) > MAX_BODY_BYTES:
                    break
            if response.status in (301, 302, 303, 307, 308):
                where_to = response.headers.get("Location", "nowhere")
                raise EndpointError(f"http-{response.status}", f"{url} redirects to {where_to}; give that URL instead")
            return response.status, response.content_type if "Content-Type" in response.headers else "", bytes(data)
    except aiohttp.ClientConnectorDNSError as error:
        raise EndpointError("dns", f"{where.host} could not be resolved: {error.os_error.strerror or error}") from None
    except aiohttp.ClientConnectorCertificateError as error:
        raise EndpointError(
            "tls-certificate",
            f"the certificate of {where.host} is not trusted: {error.certificate_error} (--tls-ca FILE names one to trust)",
        ) from None
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
        raise EndpointError("timeout-total", f"{url} did not answer within {session.timeout.total:g} s") from None
    except aiohttp.ClientError as error:
        raise EndpointError("bad-http", f"{url} broke off: {str(error) or type(error).__name__}") from None


def _words(error: OSError) -> str:
    """The system's words; asyncio puts its own, with the address in Python's notation, into strerror."""
    return os.strerror(error.errno).lower() if error.errno and error.errno in errno.errorcode else str(error)
