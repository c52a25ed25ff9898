"""Two runs side by side: what differs, by how much, and whether the difference is more than noise.

Stages are matched by their load. A stage that both runs have several times is compared by its repeats, which are
independent (Welch). Otherwise time is resampled in blocks (bootstrap.py, blocks.py): tokens and requests that met in one
queue are not independent, and counting them as if they were would find a difference everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from analysis.blocks import INTERVALS, Blocks, Numbers, Table, stage_blocks
from analysis.bootstrap import FEWEST, Interval, around, block_weights, drift_factor, student_t, widened
from analysis.confidence import sample_floor
from analysis.opened import opened
from analysis.summary import summarize
from analysis.targets import names_of, targets_of
from loadgen.schema import CaptureError

Facts = dict[str, Any]

RESOLUTION_SHARE: Final = 1 / 1024
"""What a percentile of counts may be off; differences of less are none."""

STATISTICS: Final = {"mean": None, "p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99_9": 99.9}

LATENCIES: Final = ("ttft", "ttft_intended", "tpot", "itl", "e2e", "e2e_intended")

RATES: Final = {
    # name here and in summary.json: name of the counts in Blocks
    "output_tokens_per_s": "output_tokens",
    "requests_per_s": "completed",
    "goodput_per_s": "good",
}

ERRORS: Final = "errors"
"""The share of requests that failed; its change is in points, not relative."""

WORKLOAD: Final = (
    "api",
    "dataset",
    "trace",
    "replay",
    "columns",
    "conversations",
    "lengths",
    "input_tokens",
    "output_tokens",
    "prefix_tokens",
    "prefixes",
    "nonce",
    "once",
    "time_scale",
    "from_s",
    "to_s",
    "sample",
    "inputs",
    "tools",
    "image",
    "body_template",
    "turns",
    "history",
    "think",
    "cancel",
    "retries",
    "ignore_eos",
    "tokenizer",
    "calibrate_prompts",
)
"""Keys of a spec that make another question when they differ; a key that neither spec has is the same in both."""

OF_NO_MATTER: Final = (
    "url",
    "api_key_env",
    "api_key_file",
    "seed",
    "stages",
    "workers",
    "cpus",
    "tls_ca",
    "insecure",
    "proxy",
    "connect_timeout_s",
    "first_byte_timeout_s",
    "idle_timeout_s",
    "timeout_s",
    "cooldown_s",
    "early_stop",
    "skip_bad_lines",
    "targets",
)
"""Keys that differ between any two runs, or whose difference shows in the stages; all others may be what the comparison is
about, and are told."""

MOST_CHARS: Final = 60
"""Of a value that is quoted: a body or a list of tools is not."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """One run: what it is called beside the others, its summary, and the blocks of its stages by their number."""

    run_dir: Path
    name: str
    summary: Facts
    blocks: dict[int, Blocks]


class Match(NamedTuple):
    """The stages of two runs that have one load; several on both sides are repeats."""

    load: Facts
    name: str
    before: list[Facts]
    after: list[Facts]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in two runs. `change` is relative ((after - before) / before), of errors a difference of shares."""

    metric: str
    statistic: str | None
    before: float | None
    after: float | None
    change: float | None
    interval: Interval | None
    method: str | None  # "blocks", "repeats", or None where there is no interval
    reliable: bool  # enough samples for this percentile on both sides
    statement: str
    # The interval of `after` by itself, where it has one.
    after_within: tuple[float | None, float | None] = (None, None)

    @property
    def name(self) -> str:
        return self.metric if self.statistic is None else f"{self.metric}.{self.statistic.replace('_', '.')}"


def load(run_dirs: Sequence[Path], jobs: int = 1, targets: Sequence[str | None] = ()) -> list[Loaded]:
    """Reads runs, and calls them by their folders, or A, B, C where those are alike. CaptureError as captures.open_run.

    `targets` are the names of the one of several that is looked at in each run; None, or nothing at all: the whole.
    """
    targets = targets or [None] * len(run_dirs)
    names = [
        run_dir.resolve().name + ("" if target is None else f", {target}")
        for run_dir, target in zip(run_dirs, targets, strict=True)
    ]
    if len(set(names)) < len(names):
        names = [chr(ord("A") + k) if k < 26 else f"run {k + 1}" for k in range(len(names))]
    return [
        _loaded(run_dir, name, summarize(run_dir, jobs), target)
        for run_dir, name, target in zip(run_dirs, names, targets, strict=True)
    ]


def _loaded(run_dir: Path, name: str, summary: Facts, target: str | None) -> Loaded:
    if target is None:
        return Loaded(run_dir, name, summary, stage_blocks(opened(run_dir)))
    known = names_of(summary["spec"])
    if target not in known:
        raise CaptureError(
            f"{run_dir} has no target {target!r}; there {'is' if len(known) == 1 else 'are'} {', '.join(known)}"
        )
    if len(known) == 1:
        return Loaded(run_dir, name, summary, stage_blocks(opened(run_dir)))
    number = known.index(target)
    stages = [
        stage | {key: value for key, value in stage["by_target"][number].items() if key != "name"}
        for stage in summary["stages"]
    ]
    one = targets_of(summary["spec"])[number]
    spec = summary["spec"] | {"targets": [], "model": one.model, "api": one.api}
    return Loaded(run_dir, name, summary | {"stages": stages, "spec": spec}, stage_blocks(opened(run_dir), number))


# --- may they be compared? ---


def differences_of_workload(before: Facts, after: Facts) -> list[str]:
    """Why two summaries answer different questions, a sentence each; empty when they do not."""
    one, other = before["spec"] or {}, after["spec"] or {}
    found = [
        f"{key} differs{_values(key, one.get(key), other.get(key))}"
        for key in WORKLOAD
        if one.get(key) != other.get(key)
    ]
    mixes = [[(target.weight, target.api) for target in targets_of(spec)] for spec in (one, other)]
    if len(mixes[0]) > 1 and len(mixes[1]) > 1 and mixes[0] != mixes[1]:
        found.append("the targets differ in number, weight or API: compare one of them with --target NAME")
    for match in matches(before, after):
        arrivals = [sorted({str(stage["load"].get("arrivals")) for stage in side}) for side in match[2:]]
        if arrivals[0] != arrivals[1]:
            found.append(f"{match.name}: arrivals differ: {', '.join(arrivals[0])} and {', '.join(arrivals[1])}")
    sources = [summary["capture"]["stamp_source"] for summary in (before, after)]
    if sources[0] != sources[1]:
        found.append(
            f"stamps differ: {', '.join(sources[0])} and {', '.join(sources[1])}: the client's own delay is in one of them"
        )
    return found


MOST_REASONS: Final = 3
"""Of a suspect run that are told beside a comparison; `loadgen report` has them all."""


def _reasons(reasons: Sequence[Facts]) -> str:
    told = [f"{one['stage']}: {one['words']}" if one["stage"] else str(one["words"]) for one in reasons[:MOST_REASONS]]
    more = len(reasons) - len(told)
    return "; ".join(told) + (f"; and {more} more reason{'s' if more > 1 else ''} (loadgen report)" if more else "")


def doubts(runs: Sequence[Loaded]) -> list[str]:
    """What a reader has to know before he believes a difference, a sentence each."""
    found = []
    for run in runs:
        verdict = run.summary["verdict"]
        if not verdict["ok"]:
            found.append(f"{run.name} is suspect: {_reasons(verdict['reasons'])}")
        if run.summary["interrupted"]:
            found.append(f"{run.name} was interrupted")
    for other in runs[1:]:
        one, two = runs[0].summary["spec"] or {}, other.summary["spec"] or {}
        keys = sorted({*one, *two} - {*WORKLOAD, *OF_NO_MATTER})
        found += [
            f"{key} differs between {runs[0].name} and {other.name}{_values(key, one.get(key), two.get(key))}"
            for key in keys
            if one.get(key) != two.get(key)
        ]
        for match in matches(runs[0].summary, other.summary):
            loads = [side[0]["load"] for side in match[2:]]
            found += [
                f"{match.name}: {key} differs between {runs[0].name} and {other.name}: "
                f"{_told(loads[0].get(key))} and {_told(loads[1].get(key))}"
                for key in sorted({*loads[0], *loads[1]} - {"arrivals"})
                if loads[0].get(key) != loads[1].get(key)
            ]
        hosts = [run.summary["host"].get("name") for run in (runs[0], other)]
        if hosts[0] != hosts[1]:
            found.append(f"{runs[0].name} was measured on {hosts[0]}, {other.name} on {hosts[1]}")
        if runs[0].summary["loadgen"] != other.summary["loadgen"]:
            found.append(f"{runs[0].name} and {other.name} were measured by different versions of loadgen")
    return found


def _values(key: str, one: object, other: object) -> str:
    """Both values; nothing where they are long, or are headers, which are nobody's business."""
    words = f"{_told(one)} and {_told(other)}"
    return "" if key.startswith("header") or len(words) > 2 * MOST_CHARS else f": {words}"


def _told(value: object) -> str:
    if isinstance(value, dict) and value and all(isinstance(one, dict) and "limit_ms" in one for one in value.values()):
        return ",".join(  # --slo, as it is typed
            f"{name}{'' if one['percentile'] is None else ':p{:g}'.format(one['percentile'])}={one['limit_ms']:g}ms"
            for name, one in value.items()
        )
    return "nothing" if value is None else str(value)


def matches(before: Facts, after: Facts) -> list[Match]:
    """The loads that both summaries have, the lowest first."""
    sides: list[dict[tuple[str, ...], list[Facts]]] = []
    for summary in (before, after):
        side: dict[tuple[str, ...], list[Facts]] = {}
        for stage in summary["stages"]:
            key = tuple(str(stage["load"].get(name)) for name in ("mode", "value", "profile"))
            side.setdefault(key, []).append(stage)
        sides.append(side)
    found = [
        Match(stages[0]["load"], stages[0]["name"], stages, sides[1][key])
        for key, stages in sides[0].items()
        if key in sides[1]
    ]
    return sorted(found, key=lambda match: _size(match.load))


def _size(load: Facts) -> tuple[str, float]:
    value = load.get("value")
    return str(load.get("mode")), value if isinstance(value, int | float) else math.inf


# --- what differs? ---


def changes(before: Loaded, after: Loaded, match: Match) -> list[Change]:
    """Every figure that both sides of a match have."""
    found = []
    repeated = min(len(match.before), len(match.after)) > 1
    for metric in LATENCIES:
        if all(stage.get(f"{metric}_ms") for side in match[2:] for stage in side):
            found += _latency_changes(before, after, match, metric, repeated)
    for metric, counted in RATES.items():
        if all(stage.get(metric) is not None for side in match[2:] for stage in side):
            values = [[float(stage[metric]) for stage in side] for side in match[2:]]
            drawn = None if repeated else _drawn_rates(before, after, match, counted)
            found.append(_change(metric, None, values, drawn, True))
    if all(stage["requests"]["sent"] for side in match[2:] for stage in side):
        values = [[stage["requests"]["failed"] / stage["requests"]["sent"] for stage in side] for side in match[2:]]
        drawn = None if repeated else _drawn_shares(before, after, match)
        found.append(_change(ERRORS, None, values, drawn, True))
    return found


def _latency_changes(before: Loaded, after: Loaded, match: Match, metric: str, repeated: bool) -> list[Change]:
    drawn = None if repeated else _drawn_latencies(before, after, match, metric)
    together = [_of_all(run, side, metric) for run, side in ((before, match.before), (after, match.after))]
    found = []
    for number, statistic in enumerate(STATISTICS):
        blocks = [[stage[f"{metric}_ms"] for stage in side] for side in match[2:]]
        values = [[float(block[statistic]) for block in side] for side in blocks]
        wanted = 1 if (percentile := STATISTICS[statistic]) is None else sample_floor(percentile)
        reliable = all(sum(block["count"] for block in side) >= wanted for side in blocks)
        shown = [
            side[0] if len(side) == 1 or pooled is None else float(pooled[number])
            for side, pooled in zip(values, together, strict=True)
        ]
        here = None if drawn is None else Drawn(drawn.before[:, number], drawn.after[:, number], drawn.factor)
        one = _change(metric, statistic, values, here, reliable, shown)
        within = (match.after[0]["intervals"] or {}).get(f"{metric}_ms") if len(match.after) == 1 else None
        low, high = (within or {}).get(statistic) or (None, None)
        found.append(replace(one, after_within=(low, high)))
    return found


def _of_all(run: Loaded, side: list[Facts], metric: str) -> Numbers | None:
    """STATISTICS over the requests of all repeats of a load: percentiles are not averaged."""
    tables = [run.blocks[stage["stage"]].latencies.get(metric) for stage in side if stage["stage"] in run.blocks]
    known = [table for table in tables if table is not None]
    if len(side) == 1 or not known:
        return None
    table = _together(known)
    of_all: Numbers = _statistics(table, np.ones((1, len(table.counts))))[0]
    return of_all


class Drawn(NamedTuple):
    """The same statistic (or several, a column each) of resamples of either side, and how much that falls short."""

    before: Numbers
    after: Numbers
    factor: float


def _change(
    metric: str,
    statistic: str | None,
    values: list[list[float]],
    drawn: Drawn | None,
    reliable: bool,
    shown: Sequence[float] | None = None,
) -> Change:
    """`values` are those of the repeats, `shown` those of either side where that is not their mean."""
    before, after = shown or (sum(side) / len(side) for side in values)
    in_points = metric == ERRORS
    change = after - before if in_points else (after - before) / before if before else None
    interval, method = None, None
    if change is not None and drawn is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            resampled = drawn.after - drawn.before if in_points else (drawn.after - drawn.before) / drawn.before
        interval, method = around(change, resampled), "blocks"
        if interval is not None:
            resolution = 0.0 if statistic in (None, "mean") else RESOLUTION_SHARE
            _, low, high = widened(interval, drawn.factor)
            interval = Interval(change, low - resolution, high + resolution)
    elif change is not None and min(map(len, values)) > 1:
        interval, method = _of_repeats(change, values, in_points), "repeats"
    if interval is None:
        method = None
    statement = _statement(metric, change, interval, reliable)
    return Change(metric, statistic, before, after, change, interval, method, reliable, statement)


def _of_repeats(change: float, values: list[list[float]], in_points: bool) -> Interval:
    """Welch's interval of a difference of means; relative to the first mean by the delta method."""
    means = [float(np.mean(side)) for side in values]
    noise = [float(np.var(side, ddof=1)) / len(side) for side in values]
    scale = 1.0 if in_points else means[0]
    parts = [noise[0] * (1.0 if in_points else (means[1] / means[0]) ** 2), noise[1]]
    whole = sum(parts)
    if not whole:
        return Interval(change, change, change)
    freedom = whole**2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, values, strict=True) if len(side) > 1
    )
    half = student_t(freedom if freedom >= 5 else max(1.0, math.floor(freedom))) * math.sqrt(whole) / abs(scale)
    return Interval(change, change - half, change + half)


BETTER: Final = {
    # metric: (word for less, word for more)
    **dict.fromkeys(LATENCIES, ("faster", "slower")),
    **dict.fromkeys(RATES, ("lower", "higher")),
    ERRORS: ("fewer", "more"),
}

NO_EVIDENCE: Final = "no evidence"
TOO_FEW: Final = "too few samples"
TOO_SHORT: Final = "too short to tell"
THE_SAME: Final = "the same"


def _statement(metric: str, change: float | None, interval: Interval | None, reliable: bool) -> str:
    if not reliable:
        return TOO_FEW
    if metric == ERRORS and change == 0 and (interval is None or interval.low == interval.high):
        return THE_SAME  # none on either side, most often
    if change is None or interval is None:
        return TOO_SHORT
    if interval.low == interval.high == 0:
        return THE_SAME
    less, more = BETTER[metric]
    return less if interval.high < 0 else more if interval.low > 0 else NO_EVIDENCE


# --- resampling ---


def _sides(before: Loaded, after: Loaded, match: Match) -> list[list[Blocks]] | None:
    sides = [
        [run.blocks[stage["stage"]] for stage in side if stage["stage"] in run.blocks]
        for run, side in ((before, match.before), (after, match.after))
    ]
    return sides if all(sides) else None


def _weights(side: list[Blocks], seed: int) -> Numbers:
    """One stage after the other, each resampled for itself."""
    return np.concatenate([block_weights(INTERVALS, seed=seed + 2 * k) for k in range(len(side))], axis=1)


def _drawn_latencies(before: Loaded, after: Loaded, match: Match, metric: str) -> Drawn | None:
    sides = _sides(before, after, match)
    if sides is None or any(metric not in blocks.latencies for side in sides for blocks in side):
        return None
    tables = [_together([blocks.latencies[metric] for blocks in side]) for side in sides]
    if min(np.count_nonzero(table.counts.any(axis=1)) for table in tables) < FEWEST:
        return None
    drawn = [
        _statistics(table, _weights(side, seed)) for seed, (side, table) in enumerate(zip(sides, tables, strict=True))
    ]
    factors = [drift_factor(table.sums_ns, table.counts.sum(axis=1)) for table in tables]
    return Drawn(drawn[0], drawn[1], max(factors))


def _together(tables: list[Table]) -> Table:
    if len(tables) == 1:
        return tables[0]
    values_ns = np.unique(np.concatenate([table.values_ns for table in tables]))
    counts = []
    for table in tables:
        wide = np.zeros((len(table.counts), len(values_ns)))
        wide[:, np.searchsorted(values_ns, table.values_ns)] = table.counts
        counts.append(wide)
    return Table(np.concatenate(counts), values_ns, np.concatenate([table.sums_ns for table in tables]))


def _statistics(table: Table, weights: Numbers) -> Numbers:
    """Each of STATISTICS (ms) of each resample; NaN of one without a value."""
    found = np.full((len(weights), len(STATISTICS)), np.nan)
    for first in range(0, len(weights), 100):  # a hundred at a time: 10,000 places would be 80 MB otherwise
        some = weights[first : first + 100]
        upto = np.cumsum(some @ table.counts, axis=1)
        total = upto[:, -1]
        known = total > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            found[first : first + 100, 0] = np.where(known, some @ table.sums_ns / total, np.nan) / 1e6
        for number, percentile in enumerate(STATISTICS.values()):
            if percentile is None:
                continue
            rank = np.maximum(np.ceil(percentile / 100 * total - 1e-9), 1)
            at = np.minimum((upto < rank[:, None]).sum(axis=1), upto.shape[1] - 1)
            found[first : first + 100, number] = np.where(known, table.values_ns[at] / 1e6, np.nan)
    return found


def _drawn_rates(before: Loaded, after: Loaded, match: Match, counted: str) -> Drawn | None:
    sides = _sides(before, after, match)
    if sides is None:
        return None
    drawn, factors = [], []
    for seed, side in enumerate(sides):
        counts = np.concatenate([blocks.rates[counted] for blocks in side])
        if np.count_nonzero(counts) < FEWEST:
            return None
        seconds = np.repeat([blocks.interval_s for blocks in side], INTERVALS)
        weights = _weights(side, seed)
        drawn.append((weights @ counts) / (weights @ seconds))
        factors.append(drift_factor(counts, seconds))
    return Drawn(drawn[0], drawn[1], max(factors))


def _drawn_shares(before: Loaded, after: Loaded, match: Match) -> Drawn | None:
    sides = _sides(before, after, match)
    if sides is None:
        return None
    drawn, factors = [], []
    for seed, side in enumerate(sides):
        sent, failed = (np.concatenate([blocks.rates[name] for blocks in side]) for name in ("sent", "failed"))
        if np.count_nonzero(sent) < FEWEST:
            return None
        weights = _weights(side, seed)
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn.append((weights @ failed) / (weights @ sent))
        factors.append(drift_factor(failed, sent))
    return Drawn(drawn[0], drawn[1], max(factors))
