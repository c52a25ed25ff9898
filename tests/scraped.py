"""What a scraping process wrote, read by pyarrow alone; and such files without one."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from loadgen.schema import WATCH_KEY
from loadgen.scrape.recording import Recording
from loadgen.wire.exposition import Page, Sample


def scrapes_in(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """(file metadata, the scrapes as told, the rows) of a scrape.arrow."""
    told: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    with pa.OSFile(str(path)) as file:
        reader = pa.ipc.open_stream(file)
        facts = {key.decode(): json.loads(value) for key, value in reader.schema.metadata.items()}
        while True:
            try:
                item = reader.read_next_batch_with_custom_metadata()
            except StopIteration:
                return facts, told, rows
            told += json.loads(item.custom_metadata[WATCH_KEY.encode()])["scrapes"]
            rows += item.batch.to_pylist()


def labels(**values: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))


def write_scrapes(
    run_dir: Path, pages: Iterable[tuple[int, int, list[tuple[str, tuple[tuple[str, str], ...], float]] | str]]
) -> None:
    """capture/scrape.arrow with pages (source, time in ns, samples or the words of an error)."""
    pages = list(pages)
    sources = [f"http://h{number}/metrics" for number in range(max((page[0] for page in pages), default=0) + 1)]
    facts = {
        "scrape_schema": 1,
        "run_id": "r",
        "sources": sources,
        "every_ns": 1_000_000_000,
        "realtime_offset_ns": 0,
    }
    recording = Recording(str(run_dir / "capture" / "scrape.arrow"), facts)
    for source, at_ns, found in pages:
        error = found if isinstance(found, str) else None
        told = {"source": source, "t_send_ns": at_ns - 1000, "t_recv_ns": at_ns + 1000, "status": 200}
        page = None if isinstance(found, str) else Page([Sample(*one) for one in found], 0, 0)
        recording.add(told | {"border": False, "error": error, "bytes": 100}, page)
        recording.write([0] * len(sources))
    recording.close([0] * len(sources))
