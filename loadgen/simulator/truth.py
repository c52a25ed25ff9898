"""The truth log: what was really sent, and when, in an Arrow IPC stream file.

One row a request for a completion or an embedding, written when it has ended. Points in time are CLOCK_MONOTONIC ns of the
server's machine. A batch is written at least every second (`--flush`) while requests end, so that the file can be read
while the server works and after it was killed.

The time of a token is taken just before the call that hands its event to the kernel, the event's last byte where it is
cut over several calls. A client's stamp of it, if right, is never earlier. `deferred_writes` counts the sends of which
the kernel did not take all at once because the client was slow to read: there the rest left later than the log says.
"""

import io
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa

from loadgen.errors import UsageError

SCHEMA: Final = pa.schema(
    [
        ("response_id", pa.string()),  # as the client sees it; null where the response carries none
        ("request_read_ns", pa.int64()),  # the read that held the request's last byte
        ("admitted_ns", pa.int64()),  # out of the queue; null if it never was
        ("first_byte_ns", pa.int64()),  # just before the send of the response's first byte; null if there was none
        ("first_token_ns", pa.int64()),  # the first of token_ns; null if there is none
        ("last_byte_ns", pa.int64()),  # just before the last send of the response
        ("token_ns", pa.list_(pa.int64())),  # one a token; tokens of one event share its time
        ("event_ns", pa.list_(pa.int64())),  # one an event that carried output; vectors are one, without tokens
        ("dialect", pa.string()),  # its name in simulator/dialects/; null for a request that was refused
        ("prompt_tokens", pa.int32()),
        ("cached_tokens", pa.int32()),  # of the prompt, found in the prefix cache; null for a refused request
        ("output_tokens", pa.int32()),  # the tokens sent, which are fewer than planned if the response was cut off
        ("status", pa.int16()),  # null if not even the head was sent
        ("ended", pa.string()),  # one of ENDED
        ("fault", pa.string()),  # a name of faults.FAULTS, or null
        ("connection", pa.uint64()),  # requests over one connection share it
        ("deferred_writes", pa.uint32()),
    ],
    metadata={"truth": "1"},
)

ENDED: Final = {
    "complete": "the response was sent to its end, an error status included",
    "client-closed": "the client closed the connection first",
    "fault": "cut off on purpose",
    "stopped": "the server was stopped",
}

FLUSH_ROWS: Final = 4096
"""A batch holds at most so many rows, which bounds the memory between two flushes."""


@dataclass(slots=True)
class Row:
    """A request as it ends; the columns are those of SCHEMA."""

    request_read_ns: int
    connection: int
    status: int | None
    ended: str = "complete"
    response_id: str | None = None
    admitted_ns: int | None = None
    first_byte_ns: int | None = None
    last_byte_ns: int | None = None
    prompt_tokens: int | None = None
    fault: str | None = None
    deferred_writes: int = 0
    event_ns: "array[int]" = field(default_factory=lambda: array("q"))
    event_tokens: "list[int] | None" = None
    """Tokens in each event; None where each carries one."""
    dialect: str | None = None
    cached_tokens: int | None = None


_PLAIN: Final = (
    "response_id",
    "request_read_ns",
    "admitted_ns",
    "first_byte_ns",
    "last_byte_ns",
    "dialect",
    "prompt_tokens",
    "cached_tokens",
    "status",
    "ended",
    "fault",
    "connection",
    "deferred_writes",
)


class TruthLog:
    """Collects rows and writes them in batches; `path` None keeps the counts alone. UsageError if it cannot be opened."""

    def __init__(self, path: Path | None) -> None:
        self.requests = 0
        self.tokens = 0
        self._rows: list[Row] = []
        self._file: BinaryIO | None = None
        if path is not None:
            try:
                self._file = path.open("wb")
            except OSError as error:
                raise UsageError(f"--truth: {path} cannot be written: {error.strerror}") from None
            self._writer = pa.ipc.new_stream(self._file, SCHEMA)
            self._file.flush()  # readable, as an empty log, before the first request

    def add(self, row: Row) -> None:
        self.requests += 1
        self.tokens += sum(row.event_tokens) if row.event_tokens is not None else len(row.event_ns)
        if self._file is not None:
            self._rows.append(row)
            if len(self._rows) >= FLUSH_ROWS:
                self.flush()

    def flush(self) -> None:
        """Write what has been collected, if anything; OSError when the disk does not take it."""
        if self._rows and self._file is not None:
            rows, self._rows = self._rows, []
            self._writer.write_batch(_batch(rows))
            self._file.flush()

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._writer.close()
            self._file.close()
            self._file = None


def _batch(rows: list[Row]) -> pa.RecordBatch:
    events = [np.array(row.event_ns, dtype=np.int64) for row in rows]
    tokens = [
        stamps if row.event_tokens is None else np.repeat(stamps, row.event_tokens)
        for row, stamps in zip(rows, events, strict=True)
    ]
    columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in _PLAIN}
    columns["event_ns"] = _lists(events)
    columns["token_ns"] = _lists(tokens)
    columns["first_token_ns"] = [int(stamps[0]) if len(stamps) else None for stamps in tokens]
    columns["output_tokens"] = [len(stamps) for stamps in tokens]
    arrays = [
        column if isinstance(column := columns[field_.name], pa.Array) else pa.array(column, field_.type)
        for field_ in SCHEMA
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _lists(values: "list[np.ndarray[Any, np.dtype[np.int64]]]") -> pa.ListArray:
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([len(stamps) for stamps in values], out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values)))


def read(path: str | Path) -> pa.Table:
    """The whole batches of a truth log, in the order in which the requests ended; a cut-off tail is left out.

    An empty or headless file gives an empty table.
    """
    batches = []
    try:
        reader = pa.ipc.open_stream(io.BytesIO(Path(path).read_bytes()))
        while True:
            batches.append(reader.read_next_batch())
    except (StopIteration, pa.ArrowInvalid, OSError) as end:
        if isinstance(end, FileNotFoundError):
            raise
    return pa.Table.from_batches(batches, schema=SCHEMA)
