"""When users come, whether or not the server keeps up: absolute due times, computed before the run.

    constant        evenly, at the profile's rate       gamma:CV          renewal process with that coefficient of variation
    poisson         independent of each other           burst:N@PERIOD    N at once, every PERIOD
    typical:TIME    Poisson, of many plans the most typical one (typical.py), for responses that take TIME
    trace:FILE      as recorded: seconds since the start, one number a line
    recorded        as the trace (--trace, --replay) has it; each unit brings its own time, and nothing is made here

All with a rate are made at rate 1 and then stretched: arrival k of the unit process is due when the integral of the rate
profile reaches its unit time (Cinlar, "Introduction to stochastic processes", 1975, chapter 4.7; as a test: Brown et al.,
"The time-rescaling theorem and its application to neural spike train data analysis", Neural Computation 14, 2002). So a
Poisson process stays one under any profile, and no interval is ever rounded: only the due time is, once, to the ns.

One process serves all workers. A worker takes every W-th of it; together they offer exactly what one alone would.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal

from loadgen.durations import MOST_NS, UNITS_NS, duration_ns, shown

if TYPE_CHECKING:
    import os

    import numpy as np
    from numpy.typing import NDArray

    from loadgen.schedule.profile import Profile

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

MOST_ARRIVALS: Final = 1 << 32
MOST_BURST: Final = 1_000_000
MOST_CV: Final = 100.0

# Drawn and stretched in blocks of one size, whatever is asked for: that is what makes a shorter schedule the beginning of
# a longer one, to the ns, and bounds the memory. Another size is another schedule.
_BLOCK: Final = 1 << 14

# Tells this use of the seed from others; part of what a seed means.
_PURPOSE: Final = 0x61727276

# Ramp-up, warm-up and duration may each be as long as a duration can be.
_LAST_NS: Final = 3 * MOST_NS

_EXAMPLES: Final = (
    "constant, poisson, gamma:CV, burst:N@PERIOD, typical:TIME, trace:FILE or recorded, as in gamma:2 or burst:10@1s"
)
_NUMBER: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_LONGEST_LINE: Final = 4096


@dataclass(frozen=True, slots=True)
class Process:
    """How arrivals follow each other; what a kind has no use for is None."""

    kind: Literal["constant", "poisson", "gamma", "burst", "typical", "trace", "recorded"]
    cv: float | None = None
    burst_size: int | None = None
    period_ns: int | None = None
    response_ns: int | None = None
    file: str | None = None

    @property
    def text(self) -> str:
        """As it is typed; parse_process gives the same process back."""
        match self.kind:
            case "gamma":
                return f"gamma:{self.cv:g}" if float(f"{self.cv:g}") == self.cv else f"gamma:{self.cv!r}"
            case "burst":
                return f"burst:{self.burst_size}@{shown(self.period_ns or 0)}"
            case "typical":
                return f"typical:{shown(self.response_ns or 0)}"
            case "trace":
                return f"trace:{self.file}"
        return self.kind


def parse_process(text: str) -> Process:
    """ "gamma:2" -> Process. ValueError, worded for the user, otherwise. A trace's file is not opened here."""
    kind, colon, rest = text.strip().partition(":")
    match kind, colon:
        case ("constant" | "poisson" | "recorded") as plain, "":
            return Process(plain)
        case "gamma", ":":
            return Process("gamma", cv=_cv(rest))
        case "burst", ":":
            return _burst(rest)
        case "typical", ":":
            response_ns = duration_ns(rest)
            if not response_ns:
                raise ValueError(f"typical:{rest} has responses of no length; give about how long one takes")
            return Process("typical", response_ns=response_ns)
        case "trace", ":":
            if not rest.strip() or "\0" in rest:
                raise ValueError(f"{text!r} names no file; allowed is trace:FILE")
            return Process("trace", file=rest.strip())
    raise ValueError(f"{_quoted(text)} is no process of arrivals; allowed is {_EXAMPLES}")


def _cv(text: str) -> float:
    if _NUMBER.fullmatch(text.strip()) is None or not 0 < (cv := float(text)) <= MOST_CV:
        raise ValueError(f"gamma:{text} has no coefficient of variation above 0 and up to {MOST_CV:g}; write gamma:2")
    return cv


def _burst(text: str) -> Process:
    size, at, period = text.partition("@")
    if not at or re.fullmatch(r"[0-9]{1,9}", size.strip()) is None:
        raise ValueError(f"{_quoted('burst:' + text)} is no burst; allowed is burst:N@PERIOD, as in burst:10@1s")
    if not 1 <= int(size) <= MOST_BURST:
        raise ValueError(f"burst:{text} has {int(size)} arrivals at once; allowed are 1 to {MOST_BURST}")
    period_ns = duration_ns(period)
    if not period_ns:
        raise ValueError(f"burst:{text} has a period of 0; it must be above 0")
    return Process("burst", burst_size=int(size), period_ns=period_ns)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def offsets_ns(
    process: Process,
    profile: Profile | None,
    *,
    seed: int,
    stage: int,
    until_ns: int | None = None,
    count: int | None = None,
    warmup_ns: int = 0,
) -> Integers:
    """Due times from the stage's start, ascending: all before `until_ns`, or the first `count` (fewer if there are no more).

    `profile` is the rate; burst and trace have their own. What is typical is told by the arrivals behind `warmup_ns`.
    ValueError where there would be too many, or a trace is unfit.
    """
    import numpy as np

    if (until_ns is None) == (count is None):
        raise TypeError("offsets_ns: give one of until_ns and count")
    if count is not None and count > MOST_ARRIVALS:
        raise _too_many(count)
    match process.kind:
        case "trace":
            assert process.file is not None
            due_ns = read_trace(process.file)
            return due_ns[:count] if until_ns is None else due_ns[: np.searchsorted(due_ns, until_ns)]
        case "burst":
            return _bursts_ns(process, until_ns, count)
        case "typical":
            if until_ns is None:
                raise ValueError(
                    "typical arrivals are chosen for a known span; give --duration, and --warmup as a time"
                )
            assert profile is not None
            return _typical_ns(process, profile, seed, stage, until_ns, warmup_ns)
    assert profile is not None
    return _rescaled_ns(process, profile, seed, stage, until_ns, count)


def _rescaled_ns(
    process: Process, profile: Profile, seed: int, stage: int, until_ns: int | None, count: int | None
) -> Integers:
    import numpy as np

    end_ns = min(bound for bound in (until_ns, profile.length_ns, _LAST_NS) if bound is not None)
    if until_ns is not None and (expected := profile.integral(np.array([end_ns]))[0]) > MOST_ARRIVALS:
        raise _too_many(expected)
    blocks: list[Integers] = []
    wanted = MOST_ARRIVALS if count is None else count
    last_ns = 0.0
    for unit_times in _unit_times(process, seed, stage):
        if not wanted:
            break
        # latest: 5@1s+0@1s+5@1s is five arrivals, a pause and five more; the sixth is due after the pause, not in it.
        due_ns = np.rint(profile.inverse(unit_times, latest=True))
        # Where the inverse is iterated, two arrivals 0.01 ns apart may come out in either order.
        due_ns[0] = max(due_ns[0], last_ns)
        np.maximum.accumulate(due_ns, out=due_ns)
        inside = int(np.searchsorted(due_ns, end_ns))
        last_ns = float(due_ns[-1])
        blocks.append(due_ns[: min(inside, wanted)].astype(np.int64))
        wanted -= blocks[-1].size
        if inside < due_ns.size:
            if wanted and end_ns == _LAST_NS:
                raise ValueError(
                    f"the arrivals go on after {shown(_LAST_NS)}; allowed are fewer of them, or a higher rate"
                )
            break
    return np.concatenate(blocks) if blocks else np.empty(0, dtype=np.int64)


def _typical_ns(process: Process, profile: Profile, seed: int, stage: int, until_ns: int, warmup_ns: int) -> Integers:
    import numpy as np

    from loadgen.schedule import typical

    assert process.response_ns is not None
    end_ns = min(until_ns, profile.length_ns or until_ns)
    since, whole = (float(one) for one in profile.integral(np.array([min(warmup_ns, end_ns), end_ns])))
    if whole > MOST_ARRIVALS:
        raise _too_many(whole)
    plans = int(min(typical.PLANS, max(typical.FEWEST_PLANS, typical.MOST_DRAWN // max(whole, 1))))

    def drawn(plan: int) -> Floats:
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stage, _PURPOSE, plan])))
        times = np.empty(0)
        while not len(times) or times[-1] < whole:
            gaps = -np.log1p(-random.random(int(whole + 6 * np.sqrt(whole)) + 8))
            times = np.concatenate((times, np.cumsum(gaps) + (times[-1] if len(times) else 0.0)))
        return times[: np.searchsorted(times, whole)]

    in_flight = whole * process.response_ns / end_ns if end_ns else 0.0
    chosen = typical.most_typical(map(drawn, range(plans)), since, in_flight)
    return np.minimum(np.rint(profile.inverse(chosen, latest=True)), end_ns - 1).astype(np.int64)


def _unit_times(process: Process, seed: int, stage: int) -> Iterator[Floats]:
    """The arrivals of the process at rate 1, block by block, without an end."""
    import numpy as np

    if process.kind == "constant":
        first = 0
        while True:
            yield np.arange(first, first + _BLOCK, dtype=np.float64)
            first += _BLOCK
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stage, _PURPOSE])))
    shape, reached = 1.0, 0.0
    if process.kind == "gamma":
        assert process.cv is not None
        shape = min(1 / process.cv * (1 / process.cv), 1e300)
        # The stage begins at any moment of the process, not at an arrival: the wait for the first is a part, evenly
        # drawn, of a gap that was met in proportion to its length. Begun at an arrival, gamma:10 would offer 50 too many.
        reached = random.random() * random.standard_gamma(shape + 1) / shape
        yield np.array([reached])
    while True:
        # Poisson by hand, so that a seed means the same in every version of numpy.
        gaps = -np.log1p(-random.random(_BLOCK)) if shape == 1 else random.standard_gamma(shape, _BLOCK) / shape
        times = reached + np.cumsum(gaps)
        reached = float(times[-1])
        yield times


def _bursts_ns(process: Process, until_ns: int | None, count: int | None) -> Integers:
    import numpy as np

    size, period_ns = process.burst_size, process.period_ns
    assert size is not None
    assert period_ns is not None
    if until_ns is not None:
        bursts = -(-max(until_ns, 0) // period_ns)
        count = bursts * size
        if count > MOST_ARRIVALS:
            raise _too_many(count)
    else:
        assert count is not None
        bursts = -(-count // size)
        if bursts * period_ns > _LAST_NS:
            raise ValueError(f"{process.text} would take longer than {shown(_LAST_NS)} for {count} arrivals")
    return np.repeat(np.arange(bursts, dtype=np.int64) * period_ns, size)[:count]


def read_trace(path: str | os.PathLike[str]) -> Integers:
    """The due times of a trace file in ns, ascending. ValueError names the line that cannot be used.

    A number of seconds since the start a line; blank lines and `#` comments do not count, nor does a heading in line 1.
    """
    import numpy as np

    due_ns = array("q")
    try:
        # A byte order mark would make a heading of the first number.
        with open(path, encoding="utf-8-sig", errors="replace") as lines:
            number = 0
            while line := lines.readline(_LONGEST_LINE + 1):
                number += 1
                if len(line) > _LONGEST_LINE:
                    raise _bad_line(path, number, f"is longer than the {_LONGEST_LINE} characters allowed")
                text = line.partition("#")[0].strip()
                if text and (offset_ns := _offset_ns(path, number, text)) is not None:
                    if due_ns and offset_ns < due_ns[-1]:
                        raise _bad_line(
                            path, number, f"({text}) is earlier than the one before it; sort the file by time"
                        )
                    due_ns.append(offset_ns)
    except OSError as error:
        raise OSError(f"{_named(path)} cannot be read ({error.strerror})") from None
    if not due_ns:
        raise ValueError(f"{_named(path)} holds no arrivals; allowed is a number of seconds a line")
    return np.frombuffer(due_ns, dtype=np.int64)


def _offset_ns(path: str | os.PathLike[str], number: int, text: str) -> int | None:
    """None for the heading."""
    if _NUMBER.fullmatch(text) is None:
        if _NUMBER.fullmatch(text.removeprefix("-")):
            raise _bad_line(path, number, f"({text}) is before the start; allowed are seconds from 0")
        if number == 1:
            return None
        raise _bad_line(path, number, f"({_quoted(text)}) is no number of seconds since the start")
    seconds = Decimal(text)
    if seconds > MOST_NS // UNITS_NS["s"]:
        raise _bad_line(
            path, number, f"({_quoted(text)}) is beyond {shown(MOST_NS)}; allowed are seconds since the start"
        )
    return int((seconds * UNITS_NS["s"]).to_integral_value())


def _bad_line(path: str | os.PathLike[str], number: int, words: str) -> ValueError:
    return ValueError(f"{_named(path)}: line {number} {words}")


def _named(path: str | os.PathLike[str]) -> str:
    return repr(str(path))


def _too_many(count: float) -> ValueError:
    return ValueError(f"{count:.6g} arrivals are too many; allowed are {MOST_ARRIVALS} in a stage")
