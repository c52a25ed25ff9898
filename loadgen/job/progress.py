"""What a run shows while it goes on: a live table in a terminal, a plain line now and then elsewhere."""

import time
from collections import deque
from types import TracebackType
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadgen.coordinator import StageNow

PLAIN_EVERY_S: Final = 5.0

# The rate shown is that of the last seconds: long enough to be steady over responses that end all at once.
RATE_S: Final = 3.0

LEAST_WANTED: Final = ("CPU", "left", "lag")
"""The columns that go first where the terminal is too narrow for all."""


class Progress:
    """Called with each StageNow. A context manager: the live table is taken away at the end."""

    def __init__(self, stages: list[dict[str, Any]], console: Console) -> None:
        self._stages = stages  # as in run.json
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._seen: deque[tuple[float, int, int]] = deque()
        self._plain_due_s = 0.0
        self._stage = -1
        self.latest: StageNow | None = None

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
        """A line that stays. The words may be a server's: what a terminal would act upon is shown as a question mark."""
        words = "".join(c if c.isprintable() else "?" for c in words)
        self._console.print(words, markup=False, highlight=False, soft_wrap=True)

    def __call__(self, now: StageNow) -> None:
        self.latest = now
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
        elif now.sent and at_s >= self._plain_due_s:
            self._plain_due_s = at_s + PLAIN_EVERY_S
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
        is_open_loop = self._stages[now.stage]["load"]["mode"] == "rate"
        cells = [
            ("stage", f"{now.stage + 1}/{len(self._stages)} {self._stages[now.stage]['name']}"),
            ("elapsed", f"{max(now.elapsed_s, 0):.0f} s{self._phase(now)}"),
            ("left", _span(self._left_s(now))),
            *([("offered", f"{now.offered}")] if is_open_loop else []),
            ("in flight", f"{now.in_flight}"),
            ("done", f"{now.completed}"),
            ("failed", f"{now.failed}"),
            *([("dropped", f"{now.dropped}")] if now.dropped else []),
            *([("cancelled", f"{now.cancelled}")] if now.cancelled else []),
            ("tokens/s", _rate(self._tokens_per_s(now))),
            ("TTFT", _ms(now.ttft_p50_ns)),
            ("TPOT", _ms(now.tpot_p50_ns)),
            *([("late", _ms(now.lateness_ns))] if is_open_loop else []),
            ("lag", _ms(now.lag_ns)),
            ("CPU", f"{self._cpu_share(now):.0%}"),
        ]
        return cells

    def _phase(self, now: StageNow) -> str:
        stage = self._stages[now.stage]
        if now.draining:
            return " drain"
        if now.elapsed_s < stage["ramp_up_s"]:
            return " ramp-up"
        if now.elapsed_s < stage["ramp_up_s"] + stage["warmup_s"]:
            return " warm-up"
        sending_s = _sending_s(stage)
        return " drain" if sending_s is not None and now.elapsed_s > sending_s else ""

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
        left_s = 0.0
        for number, stage in enumerate(self._stages[now.stage :], now.stage):
            stage_s = _sending_s(stage)
            if stage_s is None:
                done = now.completed + now.failed + now.cancelled
                if not done or now.elapsed_s <= 0 or stage["requests"] is None:
                    return None
                stage_s = stage["requests"] * now.elapsed_s / done
            left_s += max(stage_s - now.elapsed_s, 0.0) if number == now.stage else stage_s
        return left_s


def _sending_s(stage: dict[str, Any]) -> float | None:
    """From a stage's start to the end of its sending; None where the requests decide."""
    if stage["duration_s"] is None:
        return None
    sending_s: float = stage["ramp_up_s"] + stage["warmup_s"] + stage["duration_s"]
    return sending_s


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
