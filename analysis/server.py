"""The server's own story: what its metrics were while a stage was measured, out of capture/scrape.arrow.

Every scrape has a time, the middle between its sending and its receipt, on the clock of the requests; a stage's window is
cut out by it. Counters and histograms are differences between the scrapes next to the window's borders (which are made at
the borders where these were known before; `border_ms` says how far off they were). A counter that falls began anew: what was
counted since then is added, and the restart told. Gauges are the time-weighted mean over the window, and the largest value.

Latencies of the server are of the requests that it finished or began to answer inside the window; ours are of those sent in
it. Over a window of many requests the difference of the means is the way there and back, and what lies in front of the
server: a proxy, a queue of connections, this client.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
from numpy.typing import NDArray

from analysis.signals import COUNTERS, GAUGES, HISTOGRAMS, PRESETS, SAME_ON_ALL, SUM, Name
from analysis.window import Window
from loadgen.schema import SCRAPE_SCHEMA_VERSION, WATCH_KEY

NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000

SUFFIXES: Final = ("_total", "_bucket", "_sum", "_count")

PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0}

MOST_POINTS: Final = 600
"""Of a gauge over a stage in summary.json."""

MOST_WORDS: Final = 3
"""Different errors of a source that are told."""

TIMELINE: Final = ("running", "waiting", "kv_cache_share", "gpu_share")

CLIENT: Final = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")
"""Latencies that the client has measured too."""

Labels = tuple[tuple[str, str], ...]
Reals = NDArray[np.float64]
Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Series:
    """One metric with one set of labels over time; `scrape` is the place of each value's scrape in the source's times."""

    labels: Labels
    scrape: NDArray[np.int64]
    values: Reals


@dataclass(frozen=True, slots=True)
class Source:
    """One page: when it was answered, and its series by the name that the server gave."""

    url: str
    times_ns: Times
    series: dict[str, list[Series]]
    scrapes: list[dict[str, Any]]
    """As in the batch metadata, answered or not."""
    missed: int

    @property
    def preset(self) -> str | None:
        """Which server it is."""
        for start, name in PRESETS:
            if any(metric.startswith(start) for metric in self.series):
                return name
        return "Databricks" if self.series.keys() - {"process_start_time_seconds"} else None


@dataclass(frozen=True, slots=True)
class Scrapes:
    """All sources of one part of a run."""

    part: int
    every_s: float
    sources: list[Source]


def read_scrapes(run_dir: Path) -> dict[int, Scrapes]:
    """By part of the run; empty where nobody scraped. A file that is cut is read up to its last whole batch."""
    found: dict[int, Scrapes] = {}
    for path in sorted((run_dir / "capture").rglob("scrape.arrow")):
        name = path.parent.name
        part = int(name.removeprefix("part-")) if name.startswith("part-") and name[5:].isdigit() else 1
        if (scrapes := _read(path, part)) is not None:
            found[part] = scrapes
    return found


def _read(path: Path, part: int) -> Scrapes | None:
    batches: list[pa.RecordBatch] = []
    scrapes: list[dict[str, Any]] = []
    missed: list[int] = []
    with pa.OSFile(str(path)) as file:
        try:
            reader = ipc.open_stream(file)
            facts = {key.decode(): json.loads(value) for key, value in (reader.schema.metadata or {}).items()}
        except (pa.ArrowInvalid, OSError, ValueError):
            return None
        if facts.get("scrape_schema") != SCRAPE_SCHEMA_VERSION:
            return None
        while True:
            try:
                item = reader.read_next_batch_with_custom_metadata()
                watch = json.loads((item.custom_metadata or {}).get(WATCH_KEY.encode(), b"{}"))
            except (StopIteration, pa.ArrowInvalid, OSError, ValueError):
                break
            batches.append(item.batch)
            scrapes += watch.get("scrapes", ())
            missed = watch.get("missed", missed)
    return Scrapes(part, facts["every_ns"] / NS_PER_S, list(_sources(facts["sources"], batches, scrapes, missed)))


def _sources(
    urls: Sequence[str], batches: Sequence[pa.RecordBatch], scrapes: Sequence[dict[str, Any]], missed: Sequence[int]
) -> Iterator[Source]:
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in ("at", "source", "name", "labels", "value")}
    names: dict[str, int] = {}
    labels: dict[str, int] = {}
    for batch in batches:  # each has dictionaries of its own
        sent, received = (batch.column(name).to_numpy() for name in ("t_send_ns", "t_recv_ns"))
        columns["at"].append((sent + received) // 2)
        columns["source"].append(batch.column("source").to_numpy())
        columns["value"].append(batch.column("value").to_numpy())
        for column, numbers in (("name", names), ("labels", labels)):
            told = batch.column(column)
            places = np.array(
                [numbers.setdefault(text, len(numbers)) for text in told.dictionary.to_pylist()], np.int64
            )
            indices = told.indices.to_numpy()
            columns[column].append(places[indices] if len(indices) else np.zeros(0, np.int64))
    all_of = {name: np.concatenate(pieces) if pieces else np.zeros(0, np.int64) for name, pieces in columns.items()}
    read_labels = [tuple(sorted((str(k), str(v)) for k, v in json.loads(text).items())) for text in labels]
    read_names = list(names)
    for number, url in enumerate(urls):
        mine = all_of["source"] == number
        at_ns = all_of["at"][mine]
        of_source = [one for one in scrapes if one["source"] == number]
        answered = [(one["t_send_ns"] + one["t_recv_ns"]) // 2 for one in of_source if one["error"] is None]
        times_ns = np.unique(np.array(answered, np.int64))
        scrape = np.searchsorted(times_ns, at_ns)
        known = (scrape < len(times_ns)) & np.isin(at_ns, times_ns)
        scrape, of_known = scrape[known], {name: all_of[name][mine][known] for name in ("name", "labels", "value")}
        key = of_known["name"] * max(len(labels), 1) + of_known["labels"]
        order = np.lexsort((scrape, key))
        borders = np.flatnonzero(np.diff(key[order])) + 1
        series: dict[str, list[Series]] = {}
        for places in np.split(order, borders) if len(order) else ():
            name = read_names[int(of_known["name"][places[0]])]
            one = Series(
                read_labels[int(of_known["labels"][places[0]])],
                scrape[places],
                of_known["value"][places].astype(np.float64),
            )
            series.setdefault(name, []).append(one)
        yield Source(url, times_ns, series, of_source, int(missed[number]) if number < len(missed) else 0)


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


def _states(cut: _Cut, names: Iterable[Name], across_sum: bool) -> tuple[Times, Reals] | None:
    """(times, values) of a gauge inside the window, its series made one. None where the source has none."""
    found = cut.found(names, ("", "_total"))
    if found is None:
        return None
    name, _, series = found
    by_scrape: dict[int, list[tuple[Labels, float]]] = {}
    for one in series:
        for scrape, value in zip(one.scrape.tolist(), one.values.tolist(), strict=True):
            by_scrape.setdefault(scrape, []).append((one.labels, value))
    times_ns = cut.source.times_ns
    inside = [at for at in sorted(by_scrape) if cut.window.start_ns <= times_ns[at] <= cut.window.stop_ns]
    values = [
        _over_ranks(by_scrape[at]) if across_sum else sum(value for _, value in by_scrape[at]) / len(by_scrape[at])
        for at in inside
    ]
    return (times_ns[inside], np.array(values) * name.scale) if inside else None


def _gauge(cuts: Sequence[_Cut], names: Sequence[Name], across_sum: bool) -> dict[str, float] | None:
    """Mean over the window and largest value; over several sources their sum (an upper bound for the largest) or mean."""
    states = [found for cut in cuts if (found := _states(cut, names, across_sum)) is not None]
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
    """By source: gauges at each scrape inside the window, `t_s` from its start."""
    told = []
    for cut in cuts:
        line: dict[str, Any] = {"source": cut.source.url}
        for name in TIMELINE:
            found = _states(cut, GAUGES[name].names, GAUGES[name].across == SUM)
            if found is None:
                continue
            step = -(-len(found[0]) // MOST_POINTS)
            line[name] = {
                "t_s": [round((at - window.start_ns) / NS_PER_S, 6) for at in found[0][::step].tolist()],
                "values": [round(value, 6) for value in found[1][::step].tolist()],
            }
        told.append(line)
    return told


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
