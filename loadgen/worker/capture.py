"""Rows -> record batches -> worker-NN.arrow.

Rows gather in plain lists and become a batch every second, or sooner where much has gathered, so that a killed
worker loses a second at most and no batch is so large that writing it stalls the loop for long.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa

from loadgen.errors import RunError
from loadgen.schema import CAPTURE_SCHEMA, WATCH_KEY, encode_metadata
from loadgen.worker.decoding import event_tokens
from loadgen.worker.exchange import Exchange

# A column is built in some 100 us, between two other pieces of work. Compressing and writing them takes some 2 ms and, if
# the disk is slow, any time: a thread does that, which gives way to the worker's own. Half of it is for the buffers as
# such, however little is in them: so few large batches cost less than many small ones.
MAX_ROWS: Final = 1024
MAX_EVENTS: Final = 16_384

_STAMPS: Final = CAPTURE_SCHEMA.field("event_ns").type
_KINDS: Final = CAPTURE_SCHEMA.field("event_kind").type
_TOKENS: Final = CAPTURE_SCHEMA.field("event_tokens").type

DONE: Final = object()

Column = Callable[[list[Exchange], int], Any]
"""(exchanges, worker) -> their values, a list or an array."""


class CaptureWriter:
    """Writes one worker's capture. RunError when the disk does not take it, at the latest with the batch behind that one.

    From then on nothing is written, and the file ends behind its last whole batch.
    """

    def __init__(self, path: str, worker: int, facts: dict[str, Any]) -> None:
        schema = CAPTURE_SCHEMA.with_metadata(encode_metadata(facts))
        self._worker = worker
        self._path = Path(path)
        try:
            self._file = self._path.open("wb")  # open as long as the worker lives
        except OSError as error:
            raise RunError(f"the capture cannot be made: {error.strerror}") from None
        self._whole_bytes = 0
        self._is_broken = False
        # Arrow's own threads would share the worker's core, and waking them takes longer than the compressing.
        options = pa.ipc.IpcWriteOptions(use_threads=False, compression=pa.Codec("zstd", 1))
        self._writer = pa.ipc.new_stream(self._file, schema, options=options)
        self._schema = schema
        self._exchanges: list[Exchange] = []
        self._events = 0
        self._steps: Iterator[None] | None = None
        self._thread = ThreadPoolExecutor(1, initializer=_give_way)
        self._writing: Future[None] | None = None

    def append(self, exchange: Exchange) -> bool:
        """Keep an ended exchange for the next batch; True when it is time to write one."""
        self._exchanges.append(exchange)
        self._events += len(exchange.kinds)
        return self._events >= MAX_EVENTS or len(self._exchanges) >= MAX_ROWS

    def begin(self, watch: dict[str, Any]) -> None:
        """Begin to write what has gathered, with what the worker says of itself; `step` goes on with it."""
        self.finish()
        exchanges, self._exchanges, self._events = self._exchanges, [], 0
        self._steps = self._write(exchanges, watch)

    def step(self) -> None:
        """One piece of the writing, some 50 us."""
        if self._steps is not None and next(self._steps, DONE) is DONE:
            self._steps = None

    def finish(self) -> None:
        """All that is left of the writing, until the file has it."""
        while self._steps is not None:
            self.step()
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    @property
    def is_writing(self) -> bool:
        """Whether there is anything for `step` to do."""
        return self._steps is not None

    def write(self, watch: dict[str, Any]) -> None:
        """Write what has gathered; an empty batch carries what the worker says alone."""
        self.begin(watch)
        self.finish()

    def close(self, watch: dict[str, Any]) -> None:
        """Write the last batch and the end of the stream."""
        if self._is_broken:
            return
        self.write({**watch, "closing": True})
        self._thread.shutdown()
        self._writer.close()
        self._file.close()

    def _write(self, exchanges: list[Exchange], watch: dict[str, Any]) -> Iterator[None]:
        columns = []
        for field in CAPTURE_SCHEMA:
            values = _COLUMNS[field.name](exchanges, self._worker)
            columns.append(values if isinstance(values, pa.Array) else pa.array(values, field.type))
            yield
        batch = pa.record_batch(columns, schema=self._schema)
        if not self._is_broken:
            self._writing = self._thread.submit(self._put, batch, orjson.dumps(watch))

    def _put(self, batch: pa.RecordBatch, watch: bytes) -> None:
        try:
            self._writer.write_batch(batch, custom_metadata={WATCH_KEY: watch})
            self._file.flush()
            self._whole_bytes = self._file.tell()
        except OSError as error:
            self._is_broken = True
            with contextlib.suppress(OSError):  # it tries to write once more, and closes in any case
                self._file.close()
            with contextlib.suppress(OSError):
                os.truncate(self._path, self._whole_bytes)
            why = os.strerror(error.errno) if error.errno else str(error)
            raise RunError(f"the capture cannot be written: {why}") from None


def _give_way() -> None:
    if sys.platform == "linux":  # elsewhere a thread's number is no process's, or another's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _event_ns(exchanges: list[Exchange], _worker: int) -> pa.Array:
    stamps = [stamp_ns for exchange in exchanges for stamp_ns in exchange.event_ns]
    event_ns = np.concatenate(stamps) if stamps else np.empty(0, np.int64)
    offsets = np.zeros(len(exchanges) + 1, np.int32)
    np.cumsum([len(exchange.kinds) for exchange in exchanges], out=offsets[1:])
    return pa.ListArray.from_arrays(offsets, event_ns, type=_STAMPS)


def _event_kind(exchanges: list[Exchange], _worker: int) -> pa.Array:
    return pa.array([list(exchange.kinds) if any(exchange.kinds) else None for exchange in exchanges], _KINDS)


def _event_tokens(exchanges: list[Exchange], _worker: int) -> pa.Array:
    return pa.array([event_tokens(exchange) for exchange in exchanges], _TOKENS)


def _of_exchange(name: str) -> Column:
    get = attrgetter(name)
    return lambda exchanges, _: [get(exchange) for exchange in exchanges]


def _of_answer(name: str) -> Column:
    return _of_exchange(f"answer.{name}")


_COLUMNS: Final[dict[str, Column]] = {
    **{field.name: _of_exchange(field.name) for field in CAPTURE_SCHEMA},
    **{
        name: _of_answer(name)
        for name in (
            "prompt_tokens",
            "output_tokens",
            "reasoning_tokens",
            "cached_tokens",
            "finish_reason",
            "response_id",
        )
    },
    "worker": lambda exchanges, worker: [worker] * len(exchanges),
    "status": lambda exchanges, _: [exchange.status or None for exchange in exchanges],
    "kernel_stamps": lambda exchanges, _: [exchange.unstamped == 0 for exchange in exchanges],
    "event_ns": _event_ns,
    "event_kind": _event_kind,
    "event_tokens": _event_tokens,
}
"""How each column of CAPTURE_SCHEMA is made."""
