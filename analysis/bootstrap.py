"""Intervals that do not pretend that neighbours are independent. Knows nothing of load or captures.

Tokens of a stream follow each other, requests that met in one queue waited together: a sample of n of them tells far less
than n. So a series in time order is resampled in blocks that are longer than the correlation (circular block bootstrap,
Politis and Romano 1992), a share gets Wilson's interval over as many values as the sample is worth (its design effect, Kish
1965, taken between blocks), and repeats of a run, which are independent, get Student's t.

All intervals are two-sided, by default 95 %.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE: Final = 0.95

DRAWS: Final = 1000
"""Resamples: the ends of a 95 % interval are then the 25th from either side, good to a tenth of its width."""

BLOCKS: Final = 20
"""Blocks that a series is taken to have; see confidence.MOST_BLOCKS."""

FEWEST: Final = 8
"""Values below which a series is too short to be resampled in blocks."""

Numbers = NDArray[np.float64]


class Interval(NamedTuple):
    """A value and the ends of its interval; low <= value <= high."""

    value: float
    low: float
    high: float


Statistic = Callable[[Any], float]
"""Values in an order of no meaning -> one number."""


def block_bootstrap(
    series: Sequence[float] | NDArray[Any],
    statistic: Statistic,
    *,
    blocks: int = BLOCKS,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval | None:
    """The interval of a statistic of a series in time order; None when it is too short (under 8 values).

    Percentile method over circular blocks of len / `blocks` neighbours, seeded: the same series gives the same interval.
    """
    values = np.asarray(series)
    if len(values) < FEWEST:
        return None
    randomness = np.random.default_rng(seed)
    resampled = np.array([statistic(values[_drawn(len(values), blocks, randomness)]) for _ in range(draws)])
    return _around(float(statistic(values)), resampled, confidence)


def difference(
    one: Sequence[float] | NDArray[Any],
    other: Sequence[float] | NDArray[Any],
    statistic: Statistic,
    *,
    relative: bool = False,
    blocks: int = BLOCKS,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval | None:
    """The interval of statistic(other) - statistic(one), or of that as a share of the first; None as block_bootstrap.

    The two series are of independent runs, and are resampled each for itself.
    """
    first, second = np.asarray(one), np.asarray(other)
    if min(len(first), len(second)) < FEWEST:
        return None
    randomness = np.random.default_rng(seed)

    def change(before: float, after: float) -> float:
        return (after - before) / before if relative else after - before

    def resampled(values: NDArray[Any]) -> float:
        return statistic(values[_drawn(len(values), blocks, randomness)])

    if relative and not statistic(first):
        return None
    drawn = np.array([change(resampled(first), resampled(second)) for _ in range(draws)])
    return _around(change(statistic(first), statistic(second)), drawn[np.isfinite(drawn)], confidence)


def _drawn(n: int, blocks: int, randomness: np.random.Generator) -> NDArray[np.int64]:
    length = max(1, n // blocks)
    starts = randomness.integers(0, n, -(-n // length))
    places: NDArray[np.int64] = (starts[:, None] + np.arange(length)[None, :]).ravel()[:n] % n
    return places


def block_weights(n: int, *, blocks: int = BLOCKS, draws: int = DRAWS, seed: int = 0) -> Numbers:
    """How often each of n rows in time order is drawn, a line a resample: for statistics of sums over rows.

    The sums of all resamples are then one matrix product.
    """
    randomness = np.random.default_rng(seed)
    weights = [np.bincount(_drawn(n, blocks, randomness), minlength=n) for _ in range(draws)]
    return np.array(weights, np.float64)


MOST_CORRELATED: Final = 0.8
"""Of neighbouring blocks; with more, the run is one slow movement, and no interval is worth anything."""


def drift_factor(sums: Sequence[float] | NDArray[Any], counts: Sequence[float] | NDArray[Any]) -> float:
    """How much wider an interval has to be because even blocks are not independent; at least 1.

    From the correlation r of neighbouring blocks' means (with the bias of so few taken off), as that of a first-order
    autoregressive series: the square root of (1 + r) / (1 - r). Blocks without a value are passed over.
    """
    pairs = len(sums) // 2 * 2  # two rows a block, as block_weights draws them
    of_blocks = [np.asarray(values, np.float64)[:pairs].reshape(-1, 2).sum(axis=1) for values in (sums, counts)]
    some = of_blocks[1] > 0
    means = of_blocks[0][some] / of_blocks[1][some]
    if len(means) < FEWEST or not means.var():
        return 1.0
    apart = means - means.mean()
    correlation = float((apart[1:] * apart[:-1]).sum() / (apart * apart).sum()) + 1 / len(means)
    correlation = min(max(correlation, 0.0), MOST_CORRELATED)
    return math.sqrt((1 + correlation) / (1 - correlation))


def widened(interval: Interval, factor: float) -> Interval:
    """An interval with both ends so many times as far from its value."""
    value, low, high = interval
    return Interval(value, value - (value - low) * factor, value + (high - value) * factor)


def around(value: float, resampled: Numbers, confidence: float = CONFIDENCE) -> Interval | None:
    """A value with the interval that its resamples give; None when fewer than nine in ten of them are numbers."""
    known = resampled[np.isfinite(resampled)]
    return _around(value, known, confidence) if len(known) >= 0.9 * len(resampled) > 0 else None


def _around(value: float, resampled: Numbers, confidence: float) -> Interval:
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Interval(value, min(float(low), value), max(float(high), value))


def mean_of_repeats(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval | None:
    """The mean of independent repeats with Student's interval; None with fewer than two."""
    if len(values) < 2:
        return None
    numbers = np.asarray(values, np.float64)
    middle = float(numbers.mean())
    half = student_t(len(numbers) - 1, confidence) * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return Interval(middle, middle - half, middle + half)


def design_effect(values: Sequence[float] | NDArray[Any], blocks: int = BLOCKS) -> float:
    """How many values of a series in time order are worth one independent value; at least 1.

    Variance between the means of blocks over what it would be if neighbours were independent (Kish 1965).
    """
    numbers = np.asarray(values, np.float64)
    variance = float(numbers.var()) if len(numbers) else 0.0
    if len(numbers) < 2 * blocks or not variance:
        return 1.0
    length = len(numbers) // blocks
    means = numbers[: length * blocks].reshape(blocks, length).mean(axis=1)
    return max(1.0, float(means.var(ddof=1)) * length / variance)


def wilson(successes: float, n: float, confidence: float = CONFIDENCE) -> Interval:
    """A share of n (which may be an effective number) with its score interval. Source: E. B. Wilson 1927."""
    if n <= 0:
        return Interval(0.0, 0.0, 1.0)
    z = normal_quantile((1 + confidence) / 2)
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def quantile_ranks(n: float, percentile: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The ranks (0..1, as shares of the sorted sample) between which a percentile (0..100) lies, by order statistics.

    Normal approximation of the binomial (Conover 1999, 3.2), with n the number of values that the sample is worth.
    """
    wanted = percentile / 100
    half = normal_quantile((1 + confidence) / 2) * math.sqrt(wanted * (1 - wanted) / n) if n > 0 else 1.0
    return max(0.0, wanted - half), min(1.0, wanted + half)


def quantile_intervals(
    series: Sequence[float] | NDArray[Any], percentiles: Sequence[float], confidence: float = CONFIDENCE
) -> list[Interval]:
    """Percentiles (nearest rank) of a series in time order with the order statistics around each; [] when it is empty.

    An end is infinite where no value of so small a sample bounds it: all of n lie below a percentile p with chance p^n, so
    that the p99 of 92 has no upper end, which four such samples in ten would miss if it were their largest value.
    """
    values = np.asarray(series)
    if not len(values):
        return []
    in_order, tail = np.sort(values), (1 - confidence) / 2
    intervals = []
    for percentile in percentiles:
        share = percentile / 100
        at = in_order[_place(share, len(values))]
        worth = len(values) / design_effect(values > at)
        low, high = (
            float(in_order[_place(rank, len(values))]) for rank in quantile_ranks(worth, percentile, confidence)
        )
        bounded_below, bounded_above = (1 - share) ** worth <= tail, share**worth <= tail
        intervals.append(Interval(float(at), low if bounded_below else -math.inf, high if bounded_above else math.inf))
    return intervals


def _place(share: float, n: int) -> int:
    return min(max(math.ceil(share * n - 1e-9) - 1, 0), n - 1)


_T_OF_FEW: Final = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764}
"""The 97.5 % points, where the expansion below is not good enough."""


def student_t(freedom: float, confidence: float = CONFIDENCE) -> float:
    """The two-sided point of Student's t; for 95 % exact below 5 degrees of freedom, within 1 % from there on.

    Source: the Cornish-Fisher expansion, Abramowitz and Stegun 26.7.5.
    """
    if confidence == CONFIDENCE and freedom in _T_OF_FEW:
        return _T_OF_FEW[int(freedom)]
    z = normal_quantile((1 + confidence) / 2)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def normal_quantile(share: float) -> float:
    """The standard normal distribution's quantile, share in 0..1 (exclusive)."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)
