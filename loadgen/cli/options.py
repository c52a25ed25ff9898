"""Flags and environment -> Spec. Commands that make load share these, so that a flag means one thing everywhere."""

import os
import secrets
from collections.abc import Callable
from typing import Any, Final

import click

from loadgen.cli.durations import DurationType
from loadgen.errors import UsageError
from loadgen.spec import APIS, TRANSPORTS, Spec, check, default_warmup_s, parse_cpus, parse_levels, parse_slo

NS_PER_S: Final = 1_000_000_000

_OPTIONS: Final = [
    click.option("--url", help="Base URL (http://host:8000, https://host/v1) or whole path. [env: OPENAI_BASE_URL]"),
    click.option("--model", help="Model name; default: the first one that the endpoint lists."),
    click.option("--api", type=click.Choice(APIS), default="chat", show_default=True, help="What the endpoint speaks."),
    click.option(
        "--concurrency",
        default="1",
        show_default=True,
        metavar="N[,N...]",
        help="Requests in flight; a list is a stage each.",
    ),
    click.option("--requests", type=int, help="End a stage after this many requests."),
    click.option(
        "--duration", type=DurationType(), help="End a stage after this time (default 30s without --requests)."
    ),
    click.option(
        "--warmup",
        type=DurationType(at_least_ns=0),
        help="Load before the measured window (default: a tenth of --duration, at most 10s; 0 with --requests).",
    ),
    click.option(
        "--drain",
        type=DurationType(at_least_ns=0),
        default="60s",
        show_default=True,
        help="How long requests in flight may go on after the last send.",
    ),
    click.option(
        "--input-tokens",
        type=int,
        default=512,
        show_default=True,
        help="Words of the synthetic prompt, about a token each.",
    ),
    click.option("--output-tokens", type=int, default=128, show_default=True, help="max_tokens of each request."),
    click.option("--ignore-eos", is_flag=True, help="Ask the server to go on to max_tokens (vLLM, SGLang)."),
    click.option(
        "--seed", type=int, help="Of the prompts; default: a new one each run, so that no prefix cache knows them."
    ),
    click.option(
        "--workers", default="auto", show_default=True, metavar="N|auto", help="Worker processes, one a core."
    ),
    click.option("--cpus", metavar="LIST", help="The cores that workers may be pinned to, as in 1-3,6."),
    click.option(
        "--transport",
        type=click.Choice(TRANSPORTS),
        default="auto",
        show_default=True,
        help="How bytes are received and stamped.",
    ),
    click.option(
        "--tls-ca", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="Certificates to trust."
    ),
    click.option("--insecure", is_flag=True, help="Do not verify the server's certificate."),
    click.option("--proxy", metavar="URL", help="HTTP proxy (aiohttp transport)."),
    click.option(
        "--connect-timeout", type=DurationType(), default="10s", show_default=True, help="Limit on connecting."
    ),
    click.option(
        "--first-byte-timeout",
        type=DurationType(),
        default="10m",
        show_default=True,
        help="Limit on the wait for the first byte.",
    ),
    click.option(
        "--idle-timeout", type=DurationType(), default="2m", show_default=True, help="Limit on silence in a stream."
    ),
    click.option("--timeout", type=DurationType(), default="20m", show_default=True, help="Limit on a whole response."),
    click.option("--slo", metavar="LIST", help="Objectives for goodput, as in ttft=500ms,tpot=50ms (also itl, e2e)."),
]


def load_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the flags that make up a Spec."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def spec_of(flags: dict[str, Any]) -> Spec:
    """A checked Spec from the flags of load_options and the environment. UsageError names what is wrong."""
    url = flags["url"] or os.environ.get("OPENAI_BASE_URL")
    if not url:
        raise UsageError("--url: not given, and OPENAI_BASE_URL is not set; allowed is http[s]://HOST[:PORT][/PATH]")
    duration_s = _seconds(flags["duration"])
    if duration_s is None and flags["requests"] is None:
        duration_s = 30.0
    warmup_s = _seconds(flags["warmup"])
    return check(
        Spec(
            url=url,
            model=flags["model"],
            api=flags["api"],
            concurrency=parse_levels("--concurrency", flags["concurrency"]),
            requests=flags["requests"],
            duration_s=duration_s,
            warmup_s=default_warmup_s(duration_s) if warmup_s is None else warmup_s,
            drain_s=flags["drain"] / NS_PER_S,
            input_tokens=flags["input_tokens"],
            output_tokens=flags["output_tokens"],
            ignore_eos=flags["ignore_eos"],
            seed=secrets.randbits(62) if flags["seed"] is None else flags["seed"],
            workers=_workers(flags["workers"]),
            cpus=None if flags["cpus"] is None else parse_cpus("--cpus", flags["cpus"]),
            transport=flags["transport"],
            tls_ca=flags["tls_ca"],
            insecure=flags["insecure"],
            proxy=flags["proxy"],
            connect_timeout_s=flags["connect_timeout"] / NS_PER_S,
            first_byte_timeout_s=flags["first_byte_timeout"] / NS_PER_S,
            idle_timeout_s=flags["idle_timeout"] / NS_PER_S,
            timeout_s=flags["timeout"] / NS_PER_S,
            slo=None if flags["slo"] is None else parse_slo("--slo", flags["slo"]),
        )
    )


def api_key() -> str | None:
    """The key for the endpoint: from the environment, never from the command line, where every user could read it."""
    return os.environ.get("OPENAI_API_KEY") or None


def _seconds(span_ns: int | None) -> float | None:
    return None if span_ns is None else span_ns / NS_PER_S


def _workers(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(f"--workers: {text!r} is no number of workers; allowed is auto or a whole number from 1")
    return int(text)
