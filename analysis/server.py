"""The server's own story: what its metrics were while a stage was measured, out of capture/scrape.arrow.

Every scrape has a time, the middle between its sending and its receipt, on the clock of the requests; a stage's window is
cut out by it. Counters and histograms are differences between the scrapes next to the window's borders (which are made at
the borders where these were known before; `border_ms` says how far off they were). A counter that falls began anew: what was
counted since then is added, and the restart told. Gauges are the time-weighted mean over the window, and the largest value.

Latencies of the server are of the requests that it finished or began to answer inside the window; ours are of those sent in
it. Over a window of many requests the difference of the means is the way there and back, and what lies in front of the
server: a proxy, a queue of connections, this client.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from analysis.scrapes import Labels, Reals, Scrapes, Series, Source, Times
from analysis.signals import COUNTERS, GAUGES, HISTOGRAMS, SAME_ON_ALL, SUM, Name
from analysis.window import Window

NS_PER_MS: Final = 1_000_000

NS_PER_S: Final = 1_000_000_000

SUFFIXES: Final = ("_total", "_bucket", "_sum", "_count")

PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0}

MOST_POINTS: Final = 600
"""Of a signal over a stage in summary.json."""

MOST_WORDS: Final = 3
"""Different errors of a source that are told."""

RATES: Final = ("preemptions", "prompt_tokens", "output_tokens")
"""Counters that are told over time, as so many a second."""

CLIENT: Final = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")
"""Latencies that the client has measured too."""


def stage_server(scrapes: Scrapes | None, window: Window, client: dict[str, Any]) -> dict[str, Any] | None:
    """The entry `server` of a stage in summary.json; `client` is the stage as we measured it. None without scrapes."""
    if scrapes is None:
        return None
    cuts = [cut for source in scrapes.sources if (cut := _cut(source, window)) is not None]
    if not cuts:
        return None
    told: dict[str, Any] = {
        "sources": [
            {
                "url": cut.source.url,
                "server": cut.source.preset,
                "scrapes": cut.last - cut.first + 1,
                "span_s": round(cut.span_s, 6),
                "border_ms": round(cut.border_ns / NS_PER_MS, 3),
                "restarts": cut.restarts(),
            }
            for cut in cuts
        ]
    }
    for name, gauge in GAUGES.items():
        told[name] = _gauge(cuts, gauge.names, across_sum=gauge.across == SUM)
    told["gpu_memory_share"] = told["gpu_memory_share"] or _gpu_memory(cuts)
    for name, names in COUNTERS.items():
        told[name] = _rounded(_total(cut.increase(names) for cut in cuts))
    queries, hits = told.pop("prefix_queries"), told.pop("prefix_hits")
    of_gauge = told.pop("prefix_hit_share")
    cached, prompts = told["cached_prompt_tokens"], told["prompt_tokens"]
    if queries is not None:
        told["prefix_hit_share"] = round(hits / queries, 9) if queries and hits is not None else None
    elif cached is not None and prompts:
        told["prefix_hit_share"] = round(min(cached / prompts, 1.0), 9)
    else:
        told["prefix_hit_share"] = None if of_gauge is None else of_gauge["mean"]
    drafted, accepted = told["draft_tokens"], told["accepted_draft_tokens"]
    told["draft_acceptance_share"] = round(accepted / drafted, 9) if drafted and accepted is not None else None
    span_s = max(cut.span_s for cut in cuts)
    told["output_tokens_per_s"] = _rounded(None if told["output_tokens"] is None else told["output_tokens"] / span_s)
    energy, tokens = told["gpu_energy_j"], client.get("output_tokens_per_s")
    told["joules_a_token"] = _rounded(energy / span_s / tokens) if energy and tokens else None
    for name, names in HISTOGRAMS.items():
        told[name] = _histogram(cuts, names)
        ours = client.get(name) if name in CLIENT else None
        if told[name] is not None and ours:
            told[name] |= {
                "client_mean": ours["mean"],
                "client_minus_server": round(ours["mean"] - told[name]["mean"], 6),
            }
    told["timeline"] = _timeline(cuts, window)
    return told


@dataclass(frozen=True, slots=True)
class _Cut:
    """A source between the scrapes that lie next to the borders of a window."""

    source: Source
    window: Window
    first: int
    last: int

    @property
    def span_s(self) -> float:
        times_ns = self.source.times_ns
        return float(times_ns[self.last] - times_ns[self.first]) / NS_PER_S

    @property
    def inside(self) -> Times:
        """The places of the scrapes within the window."""
        times_ns = self.source.times_ns
        return np.flatnonzero((times_ns >= self.window.start_ns) & (times_ns <= self.window.stop_ns))

    @property
    def of_stage(self) -> Times:
        """Those within the stage, warm-up and drain too, and the ones next to it if they are no farther than usual."""
        times_ns = self.source.times_ns
        usual_ns = int(np.median(np.diff(times_ns)))
        first, after = np.searchsorted(times_ns, (self.window.begin_ns, self.window.end_ns + 1))
        if first and self.window.begin_ns - times_ns[first - 1] <= usual_ns:
            first -= 1
        if after < len(times_ns) and times_ns[after] - self.window.end_ns <= usual_ns:
            after += 1
        return np.arange(first, after)

    @property
    def border_ns(self) -> int:
        times_ns = self.source.times_ns
        return int(
            max(abs(times_ns[self.first] - self.window.start_ns), abs(times_ns[self.last] - self.window.stop_ns))
        )

    def found(self, names: Iterable[Name], suffixes: Sequence[str]) -> tuple[Name, str, list[Series]] | None:
        """The first name, with one of these endings, that the source has."""
        for name in names:
            for suffix in suffixes:
                series = self.source.series.get(name.metric + suffix, [])
                if name.label is not None:
                    series = [one for one in series if name.label in one.labels]
                if series:
                    return name, suffix, series
        return None

    def increase(self, names: Iterable[Name]) -> float | None:
        """By how much a counter grew; None where there is none."""
        found = self.found(names, ("", "_total"))
        if found is None:
            return None
        name, _, series = found
        return name.scale * _over_ranks([(one.labels, self.grown(one)) for one in series])

    def grown(self, series: Series) -> float:
        """As Prometheus' increase(): a fall is a restart from 0. A series that was not there at first began at 0."""
        inside = (series.scrape >= self.first) & (series.scrape <= self.last)
        values = series.values[inside]
        if len(values) and series.scrape[inside][0] > self.first:
            values = np.concatenate(([0.0], values))
        if len(values) < 2:
            return 0.0
        steps = np.diff(values)
        return float(np.where(steps < 0, values[1:], steps).sum())

    def restarts(self) -> int:
        """Between how many pairs of scrapes the server began anew: a counter fell, or the process' start time changed."""
        at: set[int] = set()
        for name, series in self.source.series.items():
            starts = name == "process_start_time_seconds"
            if not starts and not name.endswith(("_total", "_count")):
                continue
            for one in series:
                inside = (one.scrape >= self.first) & (one.scrape <= self.last)
                steps = np.diff(one.values[inside])
                # gauges with a counter's name (Databricks) fall, too
                if name.startswith("request_") or name.startswith("provisioned_"):
                    continue
                at |= set(one.scrape[inside][1:][np.abs(steps) > 1 if starts else steps < 0].tolist())
        return len(at)


def _cut(source: Source, window: Window) -> _Cut | None:
    times_ns = source.times_ns
    if len(times_ns) < 2 or not window.length_ns:
        return None
    first = int(np.argmin(np.abs(times_ns - window.start_ns)))
    last = int(np.argmin(np.abs(times_ns - window.stop_ns)))
    # Scrapes of another time than the window's say nothing of it.
    if last <= first or max(times_ns[first] - window.start_ns, window.stop_ns - times_ns[last]) > window.length_ns / 2:
        return None
    return _Cut(source, window, first, last)


def _over_ranks(values: Iterable[tuple[Labels, float]]) -> float:
    """The sum over the series, but the largest over those that differ in the rank within one replica alone."""
    largest: dict[Labels, float] = {}
    for labels, value in values:
        replica = tuple(one for one in labels if one[0] not in SAME_ON_ALL)
        largest[replica] = max(largest.get(replica, value), value)
    return sum(largest.values())


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _states(cut: _Cut, names: Iterable[Name], across_sum: bool, places: Times) -> tuple[Times, Reals] | None:
    """(times, values) of a gauge at some scrapes, its series made one. None where the source has none."""
    found = cut.found(names, ("", "_total"))
    if found is None or not len(places):
        return None
    name, _, series = found
    by_scrape: dict[int, list[tuple[Labels, float]]] = {}
    for one in series:
        first, after = np.searchsorted(one.scrape, (places[0], places[-1] + 1))
        for scrape, value in zip(one.scrape[first:after].tolist(), one.values[first:after].tolist(), strict=True):
            by_scrape.setdefault(scrape, []).append((one.labels, value))
    told = [at for at in places.tolist() if at in by_scrape]
    values = [
        _over_ranks(by_scrape[at]) if across_sum else sum(value for _, value in by_scrape[at]) / len(by_scrape[at])
        for at in told
    ]
    return (cut.source.times_ns[told], np.array(values) * name.scale) if told else None


def _gauge(cuts: Sequence[_Cut], names: Sequence[Name], across_sum: bool) -> dict[str, float] | None:
    """Mean over the window and largest value; over several sources their sum (an upper bound for the largest) or mean."""
    states = [found for cut in cuts if (found := _states(cut, names, across_sum, cut.inside)) is not None]
    if not states:
        return None
    means = [_mean(times_ns, values) for times_ns, values in states]
    peaks = [float(values.max()) for _, values in states]
    mean, peak = (sum(means), sum(peaks)) if across_sum else (sum(means) / len(means), max(peaks))
    return {"mean": round(mean, 6), "max": round(peak, 6)}


def _mean(times_ns: Times, values: Reals) -> float:
    span_ns = times_ns[-1] - times_ns[0]
    if len(values) < 2 or not span_ns:
        return float(values.mean())
    return float(((values[1:] + values[:-1]) / 2 * np.diff(times_ns)).sum() / span_ns)


def _gpu_memory(cuts: Sequence[_Cut]) -> dict[str, float] | None:
    """Used memory as a share: of used and free (DCGM), or of all (Triton)."""
    used = _gauge(cuts, (Name("DCGM_FI_DEV_FB_USED"),), across_sum=True)
    free = _gauge(cuts, (Name("DCGM_FI_DEV_FB_FREE"),), across_sum=True)
    if used is not None and free is not None and (whole := used["mean"] + free["mean"]):
        return {name: round(used[name] / whole, 9) for name in used}
    used = _gauge(cuts, (Name("nv_gpu_memory_used_bytes"),), across_sum=True)
    of_all = _gauge(cuts, (Name("nv_gpu_memory_total_bytes"),), across_sum=True)
    if used is not None and of_all is not None and of_all["mean"]:
        return {name: round(used[name] / of_all["mean"], 9) for name in used}
    return None


def _histogram(cuts: Sequence[_Cut], names: Sequence[Name]) -> dict[str, Any] | None:
    """Count and mean (exact), and between which bounds the percentiles lie; None where nothing was counted."""
    count = total = 0.0
    below: dict[float, float] = {}
    for cut in cuts:
        found = cut.found(names, ("_count",))
        if found is None:
            continue
        name = found[0]
        count += _over_ranks([(one.labels, cut.grown(one)) for one in found[2]])
        sums = cut.source.series.get(f"{name.metric}_sum", [])
        total += name.scale * _over_ranks([(one.labels, cut.grown(one)) for one in sums])
        by_bound: dict[float, list[tuple[Labels, float]]] = {}
        for one in cut.source.series.get(f"{name.metric}_bucket", []):
            labels = dict(one.labels)
            try:
                bound = float(labels.pop("le", "nan")) * name.scale
            except ValueError:
                continue
            if bound == bound:
                by_bound.setdefault(bound, []).append((tuple(sorted(labels.items())), cut.grown(one)))
        for bound, grown in by_bound.items():
            below[bound] = below.get(bound, 0.0) + _over_ranks(grown)
    if count <= 0:
        return None
    told = {"count": round(count), "mean": round(total / count, 6)}
    return told | {f"{name}_between": bucket_of(below, wanted) for name, wanted in PERCENTILES.items()}


def bucket_of(below: dict[float, float], percentile: float) -> list[float | None] | None:
    """[low, high] of the bucket that holds a percentile; high is None in the one without an end. None without counts.

    A value inside it, as Prometheus' histogram_quantile() gives one, would be a guess: half a second wide, at vLLM's E2E.
    """
    bounds = sorted(below)
    if not bounds or below[bounds[-1]] <= 0:
        return None
    wanted = below[bounds[-1]] * percentile / 100
    at = next(place for place, bound in enumerate(bounds) if below[bound] >= wanted)
    high = None if bounds[at] == float("inf") else round(bounds[at], 6)
    return [round(bounds[at - 1], 6) if at else 0.0, high]


def _timeline(cuts: Sequence[_Cut], window: Window) -> list[dict[str, Any]]:
    """By source, over the whole stage: gauges at each scrape, rates since the one before; `t_s` from the window's start."""
    told = []
    for cut in cuts:
        line: dict[str, Any] = {"source": cut.source.url}
        for name, gauge in GAUGES.items():
            if (states := _states(cut, gauge.names, gauge.across == SUM, cut.of_stage)) is not None:
                line[name] = _course(*_largest(*states), window)
        for name in RATES:
            if (rate := _rate(cut, COUNTERS[name])) is not None:
                line[f"{name}_per_s"] = _course(*rate, window)
        told.append(line)
    return told


def _course(times_ns: Times, values: Reals, window: Window) -> dict[str, list[float | None]]:
    return {
        "t_s": [round((at - window.start_ns) / NS_PER_S, 6) for at in times_ns.tolist()],
        "values": [None if np.isnan(value) else round(value, 6) for value in values.tolist()],
    }


def _largest(times_ns: Times, values: Reals) -> tuple[Times, Reals]:
    """Of more values than MOST_POINTS the largest of each few, so that no peak is lost."""
    firsts = np.arange(0, len(values), -(-len(values) // MOST_POINTS))
    return times_ns[firsts], np.maximum.reduceat(values, firsts)


def _rate(cut: _Cut, names: Iterable[Name]) -> tuple[Times, Reals] | None:
    """(times, values a second): how fast a counter grew since the scrape before (NaN for the first); None without one."""
    found = cut.found(names, ("", "_total"))
    scrapes = _apart(cut)
    if found is None or len(scrapes) < 2:
        return None
    name, _, series = found
    by_replica: dict[Labels, Reals] = {}
    for one in series:
        grown = _grown_until(one, scrapes)
        replica = tuple(label for label in one.labels if label[0] not in SAME_ON_ALL)
        by_replica[replica] = np.maximum(by_replica.get(replica, grown), grown)
    times_ns = cut.source.times_ns[scrapes]
    grown = np.sum(list(by_replica.values()), axis=0)
    per_s = name.scale * np.diff(grown) / (np.diff(times_ns) / NS_PER_S)
    return times_ns, np.concatenate(([np.nan], per_s))


def _apart(cut: _Cut) -> Times:
    """The places of a stage's scrapes, without those right after another: over some ms one request is a great rate."""
    times_ns, places = cut.source.times_ns, cut.of_stage
    if len(places) < 2:
        return places
    usual_ns = np.median(np.diff(times_ns[places]))
    kept = [int(places[0])]
    for at in places[1:].tolist():
        if times_ns[at] - times_ns[kept[-1]] > usual_ns / 2:
            kept.append(at)
    return np.array(kept[:: -(-len(kept) // MOST_POINTS)], np.int64)


def _grown_until(series: Series, scrapes: Times) -> Reals:
    """How far a counter had grown at each of these scrapes, from its first value on; from 0 if it came after the first."""
    values = series.values
    if len(scrapes) and series.scrape[0] > scrapes[0]:
        values = np.concatenate(([0.0], values))
    steps = np.diff(values)
    grown = np.concatenate(([0.0], np.cumsum(np.where(steps < 0, values[1:], steps))))
    grown = grown[len(values) - len(series.scrape) :]
    at = np.searchsorted(series.scrape, scrapes, side="right") - 1
    return np.where(at < 0, 0.0, grown[np.maximum(at, 0)])


def run_server(scrapes: Iterable[Scrapes]) -> list[dict[str, Any]] | None:
    """The entry `server` of summary.json: a source each, how often it was asked and what went wrong. None without one."""
    told = []
    for one in scrapes:
        for source in one.sources:
            errors: dict[str, int] = {}
            for scrape in source.scrapes:
                if scrape["error"] is not None:
                    errors[scrape["error"]] = errors.get(scrape["error"], 0) + 1
            taken = [s["t_recv_ns"] - s["t_send_ns"] for s in source.scrapes if s["error"] is None]
            ranked = sorted(errors.items(), key=lambda item: (-item[1], item[0]))
            told.append(
                {
                    "part": one.part,
                    "url": source.url,
                    "server": source.preset,
                    "every_s": one.every_s,
                    "scrapes": len(source.scrapes),
                    "failed": sum(errors.values()),
                    "missed": source.missed,
                    "errors": dict(ranked[:MOST_WORDS]),
                    "scrape_ms_p50": round(float(np.median(taken)) / NS_PER_MS, 3) if taken else None,
                    "bytes": max((scrape["bytes"] for scrape in source.scrapes), default=0),
                    "bad_lines": sum(scrape["bad_lines"] for scrape in source.scrapes),
                    "left_out": sum(scrape["left_out"] for scrape in source.scrapes),
                }
            )
    return told or None
