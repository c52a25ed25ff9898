"""Scrapes -> scrape.arrow: an Arrow IPC stream whose dictionaries grow, so that a name is written once."""

import json
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from loadgen.schema import SCRAPE_FILE_KEYS, SCRAPE_SCHEMA, WATCH_KEY
from loadgen.wire.exposition import Labels, Page

# A server whose labels are new in each scrape must not fill the memory.
MOST_TEXTS: Final = 100_000


class Texts:
    """Texts by number, in the order in which they came."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._texts: list[str] = []

    def number(self, key: Any, text: str) -> int | None:
        """The number of a text; None where there are too many."""
        found = self._numbers.get(key)
        if found is None and len(self._texts) < MOST_TEXTS:
            found = self._numbers[key] = len(self._texts)
            self._texts.append(text)
        return found

    def column(self, numbers: list[int]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int32()), pa.array(self._texts, pa.string()))


class Recording:
    """Keeps scrapes and writes them, a batch at a time. OSError when the disk does not take it."""

    def __init__(self, path: str, facts: dict[str, Any]) -> None:
        metadata = {key: json.dumps(facts[key]) for key in SCRAPE_FILE_KEYS}
        self._schema = SCRAPE_SCHEMA.with_metadata(metadata)
        self._file = Path(path).open("wb")  # noqa: SIM115 - open as long as the process lives
        options = pa.ipc.IpcWriteOptions(
            use_threads=False, compression=pa.Codec("zstd", 3), emit_dictionary_deltas=True
        )
        self._writer = pa.ipc.new_stream(self._file, self._schema, options=options)
        self._names, self._labels = Texts(), Texts()
        self._rows: tuple[list[Any], ...] = ([], [], [], [], [], [])
        self._scrapes: list[dict[str, Any]] = []

    def add(self, told: dict[str, Any], page: Page | None) -> None:
        """One scrape; `told` is its entry in the batch metadata, whose `samples` and `left_out` are filled in here."""
        kept = left_out = 0
        for name, labels, value in page.samples if page is not None else ():
            name_number = self._names.number(name, name)
            label_number = self._labels.number(labels, _text(labels))
            if name_number is None or label_number is None:
                left_out += 1
                continue
            kept += 1
            row = (told["t_send_ns"], told["t_recv_ns"], told["source"], name_number, label_number, value)
            for column, cell in zip(self._rows, row, strict=True):
                column.append(cell)
        more = page.left_out if page is not None else 0
        bad_lines = page.bad_lines if page is not None else 0
        self._scrapes.append(told | {"samples": kept, "left_out": left_out + more, "bad_lines": bad_lines})

    def write(self, missed: list[int], *, closing: bool = False) -> None:
        """Write what has gathered."""
        sends, receipts, sources, names, labels, values = self._rows
        arrays = [
            pa.array(sends, pa.int64()),
            pa.array(receipts, pa.int64()),
            pa.array(sources, pa.uint16()),
            self._names.column(names),
            self._labels.column(labels),
            pa.array(values, pa.float64()),
        ]
        watch = {"scrapes": self._scrapes, "missed": missed, "closing": closing}
        batch = pa.record_batch(arrays, schema=self._schema)
        self._writer.write_batch(batch, custom_metadata={WATCH_KEY: json.dumps(watch)})
        self._file.flush()
        for column in self._rows:
            column.clear()
        self._scrapes = []

    def close(self, missed: list[int]) -> None:
        """Write the last batch and the end of the stream."""
        self.write(missed, closing=True)
        self._writer.close()
        self._file.close()


def _text(labels: Labels) -> str:
    return json.dumps(dict(labels), ensure_ascii=False)
