"""The flags of what watches a run besides the terminal: --prometheus and --scrape, for every command that makes load."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from loadgen.cli.durations import DurationType
from loadgen.clock import NS_PER_S
from loadgen.errors import UsageError
from loadgen.job.watching import Watching

if TYPE_CHECKING:
    from loadgen.exporter import Exporter

LEAST_EVERY_NS: Final = NS_PER_S // 20

MOST_SOURCES: Final = 64

ALLOWED_URL: Final = "allowed is http[s]://HOST[:PORT][/PATH]; the path is /metrics where none is given"


def watch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of `Watching`; they arrive as scrape, scrape_every and prometheus."""
    options = (
        click.option(
            "--prometheus",
            metavar="[HOST:]PORT",
            help="Serve live metrics of the run at /metrics  [default host: 127.0.0.1].",
        ),
        click.option(
            "--scrape",
            metavar="URL",
            multiple=True,
            help="Sample the server's own metrics (vLLM, SGLang, TGI, Triton, TensorRT-LLM, llama.cpp, DCGM, Databricks) "
            "during the run; repeatable.",
        ),
        click.option(
            "--scrape-every", type=DurationType(LEAST_EVERY_NS), default="1s", show_default=True, help="How often."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def watching_of(flags: dict[str, Any]) -> Watching:
    """Takes what watch_options added out of the flags. UsageError where it is no URL, or the port is not to be had."""
    urls = tuple(_url(text) for text in flags.pop("scrape"))
    every_ns, prometheus = flags.pop("scrape_every"), flags.pop("prometheus")
    if len(urls) > MOST_SOURCES:
        raise UsageError(f"--scrape: {len(urls)} are too many; allowed are {MOST_SOURCES}")
    if len(set(urls)) < len(urls):
        raise UsageError("--scrape: the same URL twice; give each once")
    return Watching(urls, every_ns, None if prometheus is None else _exporter(prometheus))


def _exporter(text: str) -> "Exporter":
    from loadgen.exporter import Exporter

    written = re.fullmatch(r"(?:(\[[0-9a-fA-F:.%\w]+\]|[^:\[\]\s]*):)?([0-9]{1,5})", text.strip())
    if written is None or int(written[2]) > 65535:
        raise UsageError(f"--prometheus: {text!r} is no address; allowed is [HOST:]PORT, as in 9400 or 0.0.0.0:9400")
    return Exporter((written[1] or "127.0.0.1").strip("[]"), int(written[2]))


def _url(text: str) -> str:
    from loadgen.spec.body import secret_of_query

    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f"--scrape: {text!r} is no URL; {ALLOWED_URL}")
    if "@" in parts.netloc:
        raise UsageError(
            "--scrape: the URL holds a password, which every user of this machine could read; "
            "leave it out (the key of the endpoint is sent to pages of the endpoint alone)"
        )
    if name := secret_of_query(parts.query):
        raise UsageError(f"--scrape: {name} in the URL looks like a secret, and run.json would keep it; leave it out")
    path = parts.path if parts.path not in ("", "/") else "/metrics"
    return parts._replace(path=path, fragment="").geturl()
