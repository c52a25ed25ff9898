"""What the workers say of themselves: CPU, counters, clock steps over a span of time."""

from collections.abc import Sequence

import numpy as np

from analysis.captures import Capture


def cpu_share(capture: Capture, start_ns: int, stop_ns: int) -> float | None:
    """CPU time / time between two moments, as far as the samples reach; None without two samples or in an empty span."""
    samples = np.array([sample[:2] for watch in capture.watches for sample in watch.get("samples", ())], np.int64)
    if len(samples) < 2:
        return None
    first, last = max(start_ns, int(samples[0, 0])), min(stop_ns, int(samples[-1, 0]))
    if last <= first:
        return None
    base_ns = samples[0, 0]  # floats of ns since boot would lose a microsecond
    used_ns = np.interp([first - base_ns, last - base_ns], samples[:, 0] - base_ns, samples[:, 1])
    return float(used_ns[1] - used_ns[0]) / (last - first)


def counted(capture: Capture, name: str, start_ns: int, stop_ns: int) -> float:
    """How far a running count of the batches (`reads`, `unstamped`, `reopened`) grew between two moments.

    A count is known at each batch, about every second; in between it is taken to grow evenly.
    """
    points = [(0, 0)] if capture.watches else []
    points += [(watch["samples"][-1][0], watch.get(name, 0)) for watch in capture.watches if watch.get("samples")]
    if len(points) < 2:
        return float(capture.watches[-1].get(name, 0)) if capture.watches else 0.0
    begin_ns = capture.watches[0]["samples"][0][0] if capture.watches[0].get("samples") else points[1][0]
    points[0] = (begin_ns, 0)
    if capture.watches[-1].get(name, 0) != points[-1][1]:  # the closing batch may have no sample of its own
        points.append((points[-1][0] + 1, capture.watches[-1][name]))
    times = np.array([t_ns - begin_ns for t_ns, _ in points], np.float64)
    grown = np.interp([start_ns - begin_ns, stop_ns - begin_ns], times, [value for _, value in points])
    return float(grown[1] - grown[0])


def clock_steps(captures: Sequence[Capture], start_ns: int, stop_ns: int) -> list[tuple[int, int]]:
    """(t_ns, step_ns) of the wall clock's steps between two moments, as the worker saw them that saw most."""
    return _seen(captures, "clock_steps", start_ns, stop_ns)


def sleeps(captures: Sequence[Capture], start_ns: int, stop_ns: int) -> list[tuple[int, int]]:
    """(t_ns, slept_ns) of each time that the machine was suspended between two moments, likewise."""
    return _seen(captures, "sleeps", start_ns, stop_ns)


def _seen(captures: Sequence[Capture], name: str, start_ns: int, stop_ns: int) -> list[tuple[int, int]]:
    seen = []
    for capture in captures:
        told = capture.watches[-1].get(name, ()) if capture.watches else ()
        seen.append([(int(t_ns), int(value_ns)) for t_ns, value_ns in told if start_ns <= t_ns < stop_ns])
    return max(seen, key=len, default=[])


def longest_silence_ns(capture: Capture, start_ns: int, stop_ns: int) -> int:
    """The longest time between two samples, which are due every 100 ms, as far as it lies between two moments."""
    times = np.array([sample[0] for watch in capture.watches for sample in watch.get("samples", ())], np.int64)
    times = np.clip(times, start_ns, stop_ns)
    return int(np.diff(times).max()) if len(times) > 1 else 0
