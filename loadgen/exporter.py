"""Our own live metrics over HTTP, for Prometheus to scrape: what the board says, at GET /metrics.

Served from the coordinator's process, a thread for each of a few readers; workers never hear of it. Counters and histograms
are of the whole run: what earlier stages came to is added to the stage that goes on.
"""

import contextlib
import socket
import socketserver
import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from loadgen.board import BUCKETS, bucket_end_ns, bucket_middle_ns
from loadgen.clock import NS_PER_S
from loadgen.coordinator import StageNow
from loadgen.errors import UsageError

PATIENCE_S: Final = 2.0
"""For a reader who says nothing."""

MOST_READERS: Final = 8

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# Two bounds an octave, from 0.5 ms to 134 s: ends of the board's buckets, so that every count is exact.
BOUNDS: Final = tuple(octave * 8 + eighth for octave in range(9, 27) for eighth in (3, 7))

OUTCOMES: Final = ("completed", "failed", "cancelled", "dropped")
COUNTED: Final = (*OUTCOMES, "sent", "offered", "events")


class Totals:
    """What the run has come to: the stages that have ended, and the one that goes on."""

    def __init__(self, facts: dict[str, str], stages: list[dict[str, Any]]) -> None:
        self._facts = facts
        self._stages = stages  # as in run.json; grows
        self._before = dict.fromkeys(COUNTED, 0)
        self._histograms_before = {"ttft": [0] * BUCKETS, "tpot": [0] * BUCKETS}
        self._now: StageNow | None = None
        self._lock = threading.Lock()

    def __call__(self, now: StageNow) -> None:
        """A look at the board. The last look at a stage is what it came to."""
        with self._lock:
            before = self._now
            if before is not None and before.stage != now.stage:
                for name in COUNTED:
                    self._before[name] += getattr(before, name)
                for name, counts in self._histograms_before.items():
                    self._histograms_before[name] = _sum(counts, getattr(before, f"{name}_counts"))
            self._now = now

    def text(self, *, open_metrics: bool = False) -> str:
        """The page, in OpenMetrics or in Prometheus' older text format."""
        with self._lock:
            lines = list(self._lines(open_metrics))
        return "\n".join([*lines, *(["# EOF"] if open_metrics else [])]) + "\n"

    def _lines(self, open_metrics: bool) -> Iterator[str]:
        now = self._now

        def total(name: str) -> int:
            return self._before[name] + (getattr(now, name) if now is not None else 0)

        def head(name: str, kind: str, help_text: str) -> Iterator[str]:
            # A counter's family has no _total in OpenMetrics, and in the older format it has; info is a gauge there.
            family = name.removesuffix("_total") if open_metrics and kind == "counter" else name
            family = name.removesuffix("_info") if open_metrics and kind == "info" else family
            yield f"# HELP {family} {help_text}"
            yield f"# TYPE {family} {kind if open_metrics or kind != 'info' else 'gauge'}"

        yield from head("loadgen_live_run_info", "info", "The run that goes on.")
        yield _sample("loadgen_live_run_info", 1, **self._facts)
        yield from head("loadgen_live_requests_total", "counter", "Requests that are over, by what became of them.")
        for outcome in OUTCOMES:
            yield _sample("loadgen_live_requests_total", total(outcome), outcome=outcome)
        for name, help_text in (
            ("sent", "Requests sent."),
            ("offered", "Arrivals that have come due (open loop)."),
            ("events", "Output events of responses that have ended; tokens, where an event holds one."),
        ):
            yield from head(f"loadgen_live_{name}_total", "counter", help_text)
            yield _sample(f"loadgen_live_{name}_total", total(name))
        for name, help_text in (
            ("ttft", "Time to first token of completed requests, from the send."),
            ("tpot", "Time per output token after the first of completed requests."),
        ):
            yield from head(f"loadgen_live_{name}_seconds", "histogram", f"{help_text} The sum is good to 6 %.")
            counts = _sum(self._histograms_before[name], getattr(now, f"{name}_counts") if now is not None else ())
            yield from _histogram(f"loadgen_live_{name}_seconds", counts)
        if now is None:
            return
        stage = self._stages[now.stage]
        yield from head("loadgen_live_stage_info", "info", "The stage that goes on.")
        load = stage["load"]
        told = {"stage": now.stage, "name": stage["name"], "mode": load["mode"], "load": load.get("value", "")}
        yield _sample("loadgen_live_stage_info", 1, **told)
        for name, value, help_text in (
            ("stage_number", now.stage, "Number of the stage that goes on, from 0."),
            ("stage_elapsed_seconds", max(now.elapsed_s, 0.0), "Since its start."),
            ("stage_draining", int(now.draining), "1 where no more is sent because the run was stopped or cut."),
            ("in_flight", now.in_flight, "Requests in flight."),
            ("lag_seconds", now.lag_ns / NS_PER_S, "Worst time of a read less its kernel stamp in the last second."),
            (
                "lateness_seconds",
                now.lateness_ns / NS_PER_S,
                "Worst send less due time in the last second (open loop).",
            ),
        ):
            yield from head(f"loadgen_live_{name}", "gauge", help_text)
            yield _sample(f"loadgen_live_{name}", value)
        yield from head("loadgen_live_reads_total", "counter", "Reads from sockets.")
        yield _sample("loadgen_live_reads_total", now.reads)
        yield from head("loadgen_live_worker_cpu_seconds_total", "counter", "User and system time of a worker.")
        for worker, cpu_ns in enumerate(now.cpu_ns):
            yield _sample("loadgen_live_worker_cpu_seconds_total", cpu_ns / NS_PER_S, worker=worker)


def _sum(first: Sequence[int], second: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(first, second, strict=True)] if second else list(first)


def _histogram(name: str, counts: Sequence[int]) -> Iterator[str]:
    below, at = 0, 0
    for bound in BOUNDS:
        below += sum(counts[at : bound + 1])
        at = bound + 1
        yield _sample(f"{name}_bucket", below, le=f"{bucket_end_ns(bound) / NS_PER_S:.9g}")
    yield _sample(f"{name}_bucket", sum(counts), le="+Inf")
    yield _sample(f"{name}_count", sum(counts))
    middles = sum(count * bucket_middle_ns(bucket) for bucket, count in enumerate(counts) if count)
    yield _sample(f"{name}_sum", middles / NS_PER_S)


def _sample(name: str, value: float, /, **labels: object) -> str:
    told = ",".join(f'{key}="{_escaped(str(word))}"' for key, word in labels.items())
    return f"{name}{{{told}}} {value!r}" if told else f"{name} {value!r}"


def _escaped(word: str) -> str:
    word = "".join(char if char.isprintable() else " " for char in word)
    return word.replace("\\", "\\\\").replace('"', '\\"')


class Exporter:
    """Serves Totals. Listens once it is made, serves as a context manager. UsageError if it cannot listen."""

    def __init__(self, host: str, port: int) -> None:
        self.totals: Totals | None = None
        exporter = self

        class Answer(_Answer):
            def page(self, *, open_metrics: bool) -> str | None:
                return None if exporter.totals is None else exporter.totals.text(open_metrics=open_metrics)

        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            self._server = type("Server", (_Server,), {"address_family": family})((host, port), Answer)
        except OSError as error:
            raise UsageError(
                f"--prometheus: cannot listen on {host}:{port} ({error.strerror or error}); "
                "allowed is [HOST:]PORT with a free port"
            ) from None
        self.port: int = self._server.server_address[1]
        self.shown = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Exporter":
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="exporter", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join(PATIENCE_S * 2)
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._places = threading.BoundedSemaphore(MOST_READERS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A reader beyond the last place is turned away: threads are not for whoever likes to open connections."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer asks the resolver for a name, which can take seconds
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that goes away is no concern of the run."""


class _Answer(BaseHTTPRequestHandler):
    timeout = PATIENCE_S
    server_version = "loadgen"
    sys_version = ""

    @abstractmethod
    def page(self, *, open_metrics: bool) -> str | None:
        """What there is to read; None before the run has begun."""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        open_metrics = "application/openmetrics-text" in self.headers.get("Accept", "")
        text = self.page(open_metrics=open_metrics)
        if text is None:
            self.send_error(503, "the run has not begun")
            return
        body = text.encode()
        with contextlib.suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Type", OPEN_METRICS if open_metrics else TEXT)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed in the middle of a run."""
