"""`loadgen export RUN --format F`: a run's results as other tools read them."""

import errno
import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import click

from loadgen.arrow import prepare_pyarrow
from loadgen.errors import EndpointError, RunError, UsageError

TRACES_PATH: Final = "/v1/traces"

SEND_TIMEOUT_S: Final = 30.0

MOST_ANSWER_BYTES: Final = 1 << 20

MOST_WORDS: Final = 300
"""Of what a collector says."""

FORMATS = ("parquet", "csv", "json-vllm", "json-guidellm", "json-aiperf", "hlog", "perfetto", "otlp", "openmetrics")


@click.command(short_help="Write a run's results for other tools: Parquet, CSV, vLLM's JSON, traces and more.")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "formats",
    metavar="FORMAT",
    multiple=True,
    help=f"One of {', '.join(FORMATS)}; repeatable.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to.  [default: RUN/export]")
@click.option(
    "--requests",
    "--sample",
    "requests",
    type=click.IntRange(1, 1_000_000),
    default=2_000,
    show_default=True,
    help="Requests that perfetto and otlp show, from all over the run.",
)
@click.option(
    "--endpoint",
    metavar="URL",
    help="With otlp: also send the spans to this OpenTelemetry collector (OTLP over HTTP, as http://localhost:4318).",
)
def command(run_dir: Path, formats: tuple[str, ...], out: Path | None, requests: int, endpoint: str | None) -> None:
    """Write the results of RUN for other tools, and print the paths of the files.

    docs/exports.md describes each, with queries for DuckDB, Polars and pandas.
    """
    if not formats:
        raise UsageError(f"--format: not given; allowed are {', '.join(FORMATS)}, also several")
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"--format: {name!r} is unknown; allowed are {', '.join(FORMATS)}")
    if endpoint is not None:
        if "otlp" not in formats:
            raise UsageError("--endpoint: only spans are sent; give --format otlp too")
        endpoint = traces_url(endpoint)
    if not (run_dir / "capture").is_dir():
        raise UsageError(f"{str(run_dir)!r} is no run: there is no capture/ in it")

    import importlib

    from loadgen.cli.pictures import refusing

    folder = out or run_dir / "export"
    with refusing("--out", folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    from analysis.exports import FORMATS as MODULES
    from loadgen.schema import CaptureError

    prepare_pyarrow()
    for name in dict.fromkeys(formats):
        try:
            paths = importlib.import_module(MODULES[name][0]).write(run_dir, folder, requests)
        except CaptureError as error:
            raise UsageError(str(error)) from None
        except OSError as error:
            raise RunError(f"--format {name}: {error.filename or folder}: {error.strerror or error}") from None
        for path in paths:
            click.echo(str(path))
            if name == "otlp" and endpoint is not None:
                click.echo(f"{send(path, endpoint)} spans sent to {endpoint}")


def traces_url(endpoint: str) -> str:
    """Where a collector takes spans: its base, and /v1/traces. UsageError where it is no URL."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise UsageError(
            f"--endpoint: {parts.geturl() if '@' not in parts.netloc else 'a URL with a password'} is no address; "
            "allowed is http[s]://HOST[:PORT][/PATH] (headers with keys: OTEL_EXPORTER_OTLP_HEADERS)"
        )
    path = parts.path.rstrip("/")
    return parts._replace(path=path if path.endswith(TRACES_PATH) else path + TRACES_PATH).geturl()


def send(path: Path, url: str) -> int:
    """Posts each line of an OTLP file; gives how many spans were taken. EndpointError with the collector's words."""
    import http.client
    import json
    import urllib.error
    import urllib.request

    class Here(urllib.request.HTTPRedirectHandler):
        """Keys are for the collector that was named, and for no other."""

        def redirect_request(self, *_: Any) -> None:
            return None

    opener = urllib.request.build_opener(Here)
    headers = {"Content-Type": "application/json", **_own_headers(os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""))}
    taken = 0
    with path.open("rb") as lines:
        for line in lines:
            asked = urllib.request.Request(url, line, headers, method="POST")
            try:
                with opener.open(asked, timeout=SEND_TIMEOUT_S) as answer:
                    told = answer.read(MOST_ANSWER_BYTES)
            except urllib.error.HTTPError as error:
                with error:
                    words = error.read(MOST_WORDS).decode("utf-8", "replace")
                for secret in filter(None, list(headers.values())[1:]):
                    words = words.replace(secret, "***")
                raise EndpointError(f"http-{error.code}", f"{url} answered {error.code}: {words}") from None
            except (OSError, http.client.HTTPException) as error:
                words = str(getattr(error, "reason", "") or error)
                raise EndpointError("connect-failed", f"{url} did not take the spans: {words}") from None
            spans = json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]
            try:
                partial = json.loads(told or b"{}").get("partialSuccess") or {}
                rejected = int(partial.get("rejectedSpans", 0))
            except (ValueError, AttributeError, TypeError):  # whatever else it says, it was a 200
                partial, rejected = {}, 0
            taken += len(spans) - rejected
            if rejected:
                click.echo(
                    f"loadgen: {rejected} spans were rejected: {_line(partial.get('errorMessage', ''))}", err=True
                )
    return taken


def _own_headers(text: str) -> dict[str, str]:
    """As OTEL_EXPORTER_OTLP_HEADERS has them: name=value, percent-encoded, joined by commas."""
    pairs = (pair.partition("=") for pair in text.split(",") if pair.strip())
    found = {name.strip(): unquote(value.strip()) for name, equals, value in pairs if equals and name.strip()}
    if any(not word.isascii() or not word.isprintable() for pair in found.items() for word in pair):
        raise UsageError(
            "OTEL_EXPORTER_OTLP_HEADERS: it holds characters that HTTP cannot send; allowed is name=value,..."
        )
    return found


def _line(words: object) -> str:
    return "".join(char if char.isprintable() else " " for char in str(words))[:MOST_WORDS]
