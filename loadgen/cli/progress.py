"""What a run shows while it goes on: a live table in a terminal, a plain line now and then elsewhere."""

import time
from collections import deque
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadgen.coordinator import StageNow
from loadgen.spec import Spec

PLAIN_EVERY_S: Final = 5.0

# The rate shown is that of the last seconds: long enough to be steady over responses that end all at once.
RATE_S: Final = 3.0

LEAST_WANTED: Final = ("CPU", "left", "lag")
"""The columns that go first where the terminal is too narrow for all."""


class Progress:
    """Called with each StageNow. A context manager: the live table is taken away at the end."""

    def __init__(self, spec: Spec, stage_names: list[str], console: Console) -> None:
        self._spec = spec
        self._names = stage_names
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._seen: deque[tuple[float, int, int]] = deque()
        self._plain_due_s = 0.0
        self._stage = -1

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, words: str) -> None:
        """A line that stays."""
        self._console.print(words, markup=False, highlight=False, soft_wrap=True)

    def __call__(self, now: StageNow) -> None:
        if now.stage != self._stage:
            self._stage = now.stage
            self._seen.clear()
            self._plain_due_s = 0.0
        at_s = time.monotonic()
        self._seen.append((at_s, now.reads, sum(now.cpu_ns)))
        while self._seen[-1][0] - self._seen[0][0] > RATE_S:
            self._seen.popleft()
        if self._live is not None:
            self._live.update(self._table(now), refresh=True)
        elif at_s >= self._plain_due_s:
            self._plain_due_s = at_s + PLAIN_EVERY_S
            if now.sent:
                self.say("  ".join(f"{name} {value}" for name, value in self._cells(now)))

    def _table(self, now: StageNow) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        cells = self._cells(now)
        for least in LEAST_WANTED:  # a narrow terminal would cut every column short
            if sum(max(len(name), len(value)) + 2 for name, value in cells) > self._console.width:
                cells = [cell for cell in cells if cell[0] != least]
        for name, _ in cells:
            table.add_column(name, justify="right")
        table.add_row(*(value for _, value in cells))
        return table

    def _cells(self, now: StageNow) -> list[tuple[str, str]]:
        return [
            ("stage", f"{now.stage + 1}/{now.stages} {self._names[now.stage]}"),
            ("elapsed", f"{max(now.elapsed_s, 0):.0f} s{self._phase(now)}"),
            ("left", _span(self._left_s(now))),
            ("in flight", f"{now.in_flight}"),
            ("done", f"{now.completed}"),
            ("failed", f"{now.failed}"),
            ("tokens/s", _rate(self._tokens_per_s(now))),
            ("TTFT", _ms(now.ttft_p50_ns)),
            ("TPOT", _ms(now.tpot_p50_ns)),
            ("lag", _ms(now.lag_ns)),
            ("CPU", f"{self._cpu_share(now):.0%}"),
        ]

    def _phase(self, now: StageNow) -> str:
        if now.draining:
            return " drain"
        if now.elapsed_s < self._spec.warmup_s:
            return " warm-up"
        if self._spec.duration_s is not None and now.elapsed_s > self._spec.warmup_s + self._spec.duration_s:
            return " drain"
        return ""

    def _tokens_per_s(self, now: StageNow) -> float | None:
        """Reads of the last seconds a second, times the events a read: events are only counted when a response has ended."""
        (then_s, reads_then, _), (at_s, reads_now, _) = self._seen[0], self._seen[-1]
        if at_s == then_s:
            return None
        events_a_read = now.events / now.decoded_reads if now.decoded_reads else 1.0
        return (reads_now - reads_then) / (at_s - then_s) * events_a_read

    def _cpu_share(self, now: StageNow) -> float:
        (then_s, _, cpu_then), (at_s, _, cpu_now) = self._seen[0], self._seen[-1]
        return (cpu_now - cpu_then) / 1e9 / (at_s - then_s) / len(now.cpu_ns) if at_s > then_s else 0.0

    def _left_s(self, now: StageNow) -> float | None:
        """Until the last stage's sending ends, seconds; None where nothing has come back that could tell."""
        spec = self._spec
        stages_behind = now.stages - now.stage - 1
        if spec.duration_s is not None:
            a_stage_s = spec.warmup_s + spec.duration_s
            return max(a_stage_s - now.elapsed_s, 0.0) + stages_behind * a_stage_s
        done = now.completed + now.failed
        if not done or now.elapsed_s <= 0 or spec.requests is None:
            return None
        a_request_s = now.elapsed_s / done
        return (spec.requests - done) * a_request_s + stages_behind * spec.requests * a_request_s


def _ms(span_ns: int | None) -> str:
    if span_ns is None:
        return "-"
    span_ms = span_ns / 1e6
    return f"{span_ms:.3g} ms" if span_ms < 1000 else f"{span_ms / 1000:.3g} s"


def _rate(per_s: float | None) -> str:
    return "-" if per_s is None else f"{per_s:,.0f}"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
