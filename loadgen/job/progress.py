"""What a run shows while it goes on: numbers with their recent course in a terminal, a plain line a stage elsewhere.

All of it is read off the board by the coordinator, which is nice: the workers pay nothing.
"""

import time
from collections import deque
from types import TracebackType
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.text import Text

from loadgen.board import percentile_ns
from loadgen.coordinator import StageNow
from loadgen.job.sparkline import ASCII, BLOCKS, sparkline

PLAIN_EVERY_S: Final = 60.0
"""Between two lines of a stage that goes on, where no terminal shows it."""

# Rates and percentiles shown are those of the last seconds: long enough to be steady over responses that end all at once.
RATE_S: Final = 3.0

MOST_KEPT: Final = 240
"""Looks, two a second: as many as the widest line shows."""

LEAST_HEIGHT: Final = 9
"""Of a terminal that has room for the courses; a lower one shows the two lines around them."""

WIDEST: Final = 120

COURSES: Final = (("tokens/s", ""), ("TTFT p50", "~ms"), ("TTFT p99", "~ms"), ("in flight", ""), ("lag", "ms"))
"""What has a line of its own, and its unit; ~ before one that is rough."""


class _Look(NamedTuple):
    """The sums at one moment; of their differences the rates are made."""

    at_s: float
    reads: int
    cpu_ns: int
    ttft_counts: tuple[int, ...]


class Progress:
    """Called with each StageNow. A context manager: the live view is taken away at the end."""

    def __init__(self, stages: list[dict[str, Any]], console: Console, *, all_planned: bool = True) -> None:
        self._stages = stages  # as in run.json
        self._all_planned = all_planned  # or more are added while the run goes on
        self._console = console
        can_move = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, auto_refresh=False, transient=True) if can_move else None
        self._levels = BLOCKS if console.encoding.lower().startswith("utf") else ASCII
        self._seen: deque[_Look] = deque()
        self._courses: dict[str, deque[float | None]] = {name: deque(maxlen=MOST_KEPT) for name, _ in COURSES}
        self._plain_due_s = 0.0
        self._stage = self._told = -1
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
            self._plain_due_s = time.monotonic() + PLAIN_EVERY_S
        at_s = time.monotonic()
        self._seen.append(_Look(at_s, now.reads, sum(now.cpu_ns), now.ttft_counts))
        while at_s - self._seen[0].at_s > RATE_S:
            self._seen.popleft()
        if self._live is not None:
            self._keep(now)
            self._live.update(self._view(now), refresh=True)
        elif at_s >= self._plain_due_s and now.sent:
            self._plain_due_s = at_s + PLAIN_EVERY_S
            self.say("  ".join(f"{name} {value}" for name, value in self._cells(now)))

    def stage_ended(self) -> None:
        """Where no terminal has shown the stage, a line says what became of it."""
        now = self.latest
        if self._live is not None or now is None or now.stage == self._told:  # a run may end between two stages
            return
        self._told = now.stage
        cells = dict(self._cells(now)) | {"elapsed": f"{max(now.elapsed_s, 0):.1f} s"}
        told = (name for name in cells if name not in ("left", "in flight", "tokens/s", "CPU"))
        self.say("  ".join(f"{name} {cells[name]}" for name in told))

    def _keep(self, now: StageNow) -> None:
        """The courses go on through all stages, so that the steps between them show."""
        values = {
            "tokens/s": self._tokens_per_s(now),
            "TTFT p50": self._ttft_ms(now, 50),
            "TTFT p99": self._ttft_ms(now, 99),
            "in flight": float(now.in_flight),
            "lag": now.lag_ns / 1e6,
        }
        for name, value in values.items():
            self._courses[name].append(value)

    def _ttft_ms(self, now: StageNow, percentile: float) -> float | None:
        """Of the requests that have ended in the last seconds; None where none has."""
        before = self._seen[0].ttft_counts
        if not now.ttft_counts or not before:
            return None
        recent = [count - then for count, then in zip(now.ttft_counts, before, strict=True)]
        found_ns = percentile_ns(recent, percentile)
        return None if found_ns is None else found_ns / 1e6

    def _view(self, now: StageNow) -> Text:
        width = min(self._console.width, WIDEST) - 1  # some terminals wrap a full line
        cells = dict(self._cells(now))
        lines = [
            _fitting(Text("  ").join(_cell(name, cells.pop(name)) for name in ("stage", "elapsed", "left")), width)
        ]
        if self._console.height >= LEAST_HEIGHT:
            lines += [self._course(name, unit, width) for name, unit in COURSES]
            for name, _ in COURSES:
                cells.pop(name, None)
            cells.pop("TTFT", None)
        lines.append(_fitting(Text("  ").join(_cell(name, value) for name, value in cells.items()), width))
        return Text("\n").join(lines)

    def _course(self, name: str, unit: str, width: int) -> Text:
        """`name  value  its course  the largest of it`"""
        values = self._courses[name]
        latest = values[-1] if values else None
        most = max((value for value in values if value is not None), default=None)
        line = Text(f"{name:9} ", style="dim").append(f"{_amount(latest, unit):>10} ", style="not dim bold")
        end = f" {'max' if self._levels is BLOCKS else 'most'} {_amount(most, unit):<10}"
        line.append(
            sparkline(list(values), max(width - len(line) - len(end), 0), levels=self._levels), style="not dim cyan"
        )
        return _fitting(line.append(end), width)

    def _cells(self, now: StageNow) -> list[tuple[str, str]]:
        is_open_loop = self._stages[now.stage]["load"]["mode"] == "rate"
        cells = [
            ("stage", f"{self._place(now)} {_plain(self._stages[now.stage]['name'])}"),
            ("elapsed", f"{max(now.elapsed_s, 0):.0f} s{self._phase(now)}"),
            ("left", _span(self._left_s(now))),
            *([("offered", f"{now.offered}")] if is_open_loop else []),
            ("in flight", f"{now.in_flight}"),
            ("done", f"{now.completed}"),
            ("failed", f"{now.failed}"),
            *([("dropped", f"{now.dropped}")] if now.dropped else []),
            *([("cancelled", f"{now.cancelled}")] if now.cancelled else []),
            ("tokens/s", _rate(self._tokens_per_s(now))),
            ("TTFT", _about(now.ttft_p50_ns)),
            ("TPOT", _about(now.tpot_p50_ns)),
            *([("late", _ms(now.lateness_ns))] if is_open_loop else []),
            ("lag", _ms(now.lag_ns)),
            ("CPU", f"{self._cpu_share(now):.0%}"),
        ]
        return cells

    def _place(self, now: StageNow) -> str:
        return f"{now.stage + 1}/{len(self._stages)}" if self._all_planned else f"{now.stage + 1}"

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
        then, latest = self._seen[0], self._seen[-1]
        if latest.at_s == then.at_s:
            return None
        events_a_read = now.events / now.decoded_reads if now.decoded_reads else 1.0
        return (latest.reads - then.reads) / (latest.at_s - then.at_s) * events_a_read

    def _cpu_share(self, now: StageNow) -> float:
        then, latest = self._seen[0], self._seen[-1]
        span_s = latest.at_s - then.at_s
        return (latest.cpu_ns - then.cpu_ns) / 1e9 / span_s / len(now.cpu_ns) if span_s > 0 else 0.0

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


def _cell(name: str, value: str) -> Text:
    is_bad = name in ("failed", "dropped") and value != "0"
    return Text(f"{name} ", style="dim").append(value, style="not dim red" if is_bad else "not dim")


def _fitting(line: Text, width: int) -> Text:
    line.truncate(max(width, 1))
    return line


def _plain(words: object) -> str:
    """A name from a file without control characters, which could steer the terminal."""
    return "".join(char if char.isprintable() else " " for char in str(words))


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "~ms":
        return _about(round(value * 1e6))
    return _ms(round(value * 1e6)) if unit == "ms" else f"{value:,.0f}"


def _ms(span_ns: int | None) -> str:
    if span_ns is None:
        return "-"
    span_ms = span_ns / 1e6
    return f"{span_ms:.3g} ms" if span_ms < 1000 else f"{span_ms / 1000:.3g} s"


def _about(span_ns: int | None) -> str:
    """A percentile off the board, whose buckets are 12 % wide: no more digits than it is good for."""
    if span_ns is None:
        return "-"
    span_ms = span_ns / 1e6
    digits = 0 if span_ms >= 10 else 1 if span_ms >= 1 else 2
    return f"~{float(f'{span_ms:.2g}'):.{digits}f} ms" if span_ms < 1000 else f"~{span_ms / 1000:.1f} s"


def _rate(per_s: float | None) -> str:
    return "-" if per_s is None else f"{per_s:,.0f}"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
