"""What the user asked for: one frozen value, checked at the door. Every refusal of a setting is worded here.

Built from flags (cli/options.py) and written, resolved, to run.json. Past this door there are only values.
"""

import re
import ssl
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from loadgen.durations import duration_ns
from loadgen.errors import UsageError

APIS: Final = ("chat", "completions")
TRANSPORTS: Final = ("auto", "kernel", "aiohttp")
SLO_METRICS: Final = ("ttft", "tpot", "itl", "e2e")

# What the ids of requests (32 bits in a stage) and the nonces that open the prompts can tell apart.
MOST_REQUESTS: Final = 1 << 32
MOST_STAGES: Final = 1024

# More than any machine has descriptors for; how many this one has is asked later.
MOST_CONCURRENCY: Final = 1 << 20

# Ten times the longest context there is; a typing error must not fill the memory with prompts.
MOST_INPUT_TOKENS: Final = 10_000_000
MOST_OUTPUT_TOKENS: Final = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Spec:
    """One run, as asked for. Durations in seconds, as a reader of run.json expects them."""

    url: str
    model: str | None
    api: str
    concurrency: tuple[int, ...]
    requests: int | None
    duration_s: float | None
    warmup_s: float
    drain_s: float
    input_tokens: int
    output_tokens: int
    ignore_eos: bool
    seed: int
    workers: int | None
    """None: as many as the cores give."""
    cpus: tuple[int, ...] | None
    transport: str
    tls_ca: str | None
    insecure: bool
    proxy: str | None
    connect_timeout_s: float
    first_byte_timeout_s: float
    idle_timeout_s: float
    timeout_s: float
    slo: dict[str, dict[str, float | None]] | None
    """Per metric of SLO_METRICS: {"percentile": 0..100 or None, "limit_ms"}."""

    def to_json(self) -> dict[str, Any]:
        """As it stands in run.json: plain values, no secret (a proxy's password is left out)."""
        values = asdict(self)
        values["proxy"] = _without_password(self.proxy)
        return values


def check(spec: Spec) -> Spec:
    """The same spec, if it can be run. UsageError names the first field that cannot."""
    parts = check_url("--url", spec.url)
    _among("--api", spec.api, APIS)
    _among("--transport", spec.transport, TRANSPORTS)
    if not spec.concurrency:
        raise UsageError("--concurrency: no level given; allowed are whole numbers from 1, as in 1,8,64")
    if len(spec.concurrency) > MOST_STAGES:
        raise UsageError(
            f"--concurrency: {len(spec.concurrency)} levels are too many; allowed are {MOST_STAGES} in one run"
        )
    for level in spec.concurrency:
        _within("--concurrency", level, MOST_CONCURRENCY)
    if (spec.requests is None) == (spec.duration_s is None):
        raise UsageError("--requests, --duration: give one of the two, a stage ends by its requests or by its time")
    if spec.requests is not None:
        _within("--requests", spec.requests, MOST_REQUESTS)
    if spec.duration_s is not None:
        _above("--duration", spec.duration_s)
    _within("--input-tokens", spec.input_tokens, MOST_INPUT_TOKENS)
    _within("--output-tokens", spec.output_tokens, MOST_OUTPUT_TOKENS)
    if not 0 <= spec.seed < 1 << 63:
        raise UsageError(f"--seed: {spec.seed} is out of range; allowed is 0 to 2^63 - 1")
    if spec.workers is not None:
        _within("--workers", spec.workers, MOST_CONCURRENCY)
    for flag, seconds in (
        ("--connect-timeout", spec.connect_timeout_s),
        ("--first-byte-timeout", spec.first_byte_timeout_s),
        ("--idle-timeout", spec.idle_timeout_s),
        ("--timeout", spec.timeout_s),
    ):
        _above(flag, seconds)
    if spec.proxy is not None:
        check_url("--proxy", spec.proxy, schemes=("http",))
        if spec.transport == "kernel":
            raise UsageError("--proxy: the kernel transport has no proxies; use --transport aiohttp or auto")
    if spec.insecure and spec.tls_ca is not None:
        raise UsageError("--insecure, --tls-ca: give one of the two, a certificate is checked or it is not")
    if (spec.insecure or spec.tls_ca) and parts.scheme != "https":
        raise UsageError("--tls-ca, --insecure: these are for https:// URLs")
    if spec.tls_ca is not None:
        _check_certificates("--tls-ca", spec.tls_ca)
    if spec.model is not None:
        _check_model("--model", spec.model)
    return spec


def check_url(field: str, url: str, schemes: tuple[str, ...] = ("http", "https")) -> Any:
    """The split URL (urllib.parse.SplitResult). UsageError if it cannot be called."""
    allowed = " or ".join(f"{scheme}://HOST[:PORT][/PATH]" for scheme in schemes)
    if not url.isprintable() or " " in url:
        raise UsageError(f"{field}: a URL holds no white space and no control characters; allowed is {allowed}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{field}: {url!r} is no URL ({error}); allowed is {allowed}") from None
    if parts.scheme not in schemes or not parts.hostname:
        hint = f" (did you mean http://{url}?)" if "://" not in url and "http" in schemes else ""
        raise UsageError(f"{field}: {url!r} has no scheme or host{hint}; allowed is {allowed}")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise UsageError(f"{field}: {parts.hostname!r} is no host name; allowed is {allowed}") from None
    if port == 0:
        raise UsageError(f"{field}: port 0 cannot be called; allowed is 1 to 65535")
    if parts.username and field == "--url":
        raise UsageError(f"{field}: a key or password does not belong into the URL; set OPENAI_API_KEY instead")
    return parts


def parse_levels(field: str, text: str) -> tuple[int, ...]:
    """ "1,8,64" -> (1, 8, 64). UsageError names `field`."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"{field}: {text!r} is no list of whole numbers; allowed is for example 1,8,64") from None


def parse_cpus(field: str, text: str) -> tuple[int, ...]:
    """ "1-3,6" -> (1, 2, 3, 6). UsageError names `field`."""
    cpus: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UsageError(f"{field}: {text!r} is no list of CPUs; allowed is for example 1-3,6")
        cpus.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(dict.fromkeys(cpus))


def parse_slo(field: str, text: str) -> dict[str, dict[str, float | None]]:
    """ "ttft=500ms,tpot:p95=50ms" -> {"ttft": {"percentile": None, "limit_ms": 500.0}, ...}. UsageError names `field`."""
    objectives: dict[str, dict[str, float | None]] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)(?::p(\d+(?:\.\d+)?))?\s*=\s*(\S+)\s*", part)
        if match is None or match[1] not in SLO_METRICS:
            raise UsageError(
                f"{field}: {part.strip()!r} is no objective; allowed is METRIC[:pNN]=DURATION with "
                f"{', '.join(SLO_METRICS)}, as in ttft:p99=500ms"
            )
        percentile = None if match[2] is None else float(match[2])
        if percentile is not None and not 0 < percentile <= 100:
            raise UsageError(f"{field}: p{match[2]} is no percentile; allowed is above 0 and up to 100")
        try:
            limit_ns = duration_ns(match[3])
        except ValueError as error:
            raise UsageError(f"{field}: {error}") from None
        if limit_ns <= 0:
            raise UsageError(f"{field}: the limit of {match[1]} must be above 0")
        objectives[match[1]] = {"percentile": percentile, "limit_ms": limit_ns / 1e6}
    return objectives


def default_warmup_s(duration_s: float | None) -> float:
    """A tenth of the measured time, at most 10 s; none where the number of requests is what was asked for."""
    return 0.0 if duration_s is None else min(duration_s / 10, 10.0)


def _without_password(url: str | None) -> str | None:
    return url if url is None else re.sub(r"//[^/@]*@", "//***@", url)


def _among(field: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise UsageError(f"{field}: {value!r} is not known; allowed is {', '.join(allowed)}")


def _within(field: str, value: int, most: int) -> None:
    if value < 1:
        raise UsageError(f"{field}: {value} is too small; allowed are whole numbers from 1")
    if value > most:
        raise UsageError(f"{field}: {value} is too large; allowed are whole numbers up to {most}")


def _above(field: str, value: float) -> None:
    if not value > 0:
        raise UsageError(f"{field}: {value:g} is not allowed; it must be above 0")


def _check_certificates(field: str, path: str) -> None:
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        words = "no certificate is in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(f"{field}: {path!r} cannot be used ({words}); allowed is a file of PEM certificates") from None


def _check_model(field: str, model: str) -> None:
    try:
        model.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{field}: {model!r} cannot be sent; allowed is UTF-8") from None
    if not model:
        raise UsageError(f"{field}: the name is empty; leave it out to take the first model that the endpoint lists")
