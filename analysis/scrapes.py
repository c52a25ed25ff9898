"""capture/scrape.arrow -> what each page of metrics said when, series by series."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
from numpy.typing import NDArray

from analysis.signals import PRESETS
from loadgen.schema import SCRAPE_SCHEMA_VERSION, WATCH_KEY

NS_PER_S: Final = 1_000_000_000

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
