"""Rows -> record batches -> worker-NN.arrow.

Rows gather in plain lists and become a batch every second, or sooner where much has gathered, so that a killed
worker loses a second at most and no batch is so large that writing it stalls the loop for long.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa

from loadgen.schema import CAPTURE_SCHEMA, WATCH_KEY, encode_metadata
from loadgen.worker.decoding import event_tokens
from loadgen.worker.exchange import Exchange

# A batch is built and compressed in one go, some 5 us a row and 20 ns an event: below 2 ms for the largest.
MAX_ROWS: Final = 256
MAX_EVENTS: Final = 16_384

_STAMPS: Final = CAPTURE_SCHEMA.field("event_ns").type
_KINDS: Final = CAPTURE_SCHEMA.field("event_kind").type
_TOKENS: Final = CAPTURE_SCHEMA.field("event_tokens").type


class CaptureWriter:
    """Writes one worker's capture. OSError when the disk does not take it."""

    def __init__(self, path: str, worker: int, facts: dict[str, Any]) -> None:
        schema = CAPTURE_SCHEMA.with_metadata(encode_metadata(facts))
        self._worker = worker
        self._file = Path(path).open("wb")  # noqa: SIM115 - open as long as the worker lives
        # Arrow's own threads would share the worker's core, and waking them takes longer than the compressing.
        options = pa.ipc.IpcWriteOptions(use_threads=False, compression=pa.Codec("zstd", 1))
        self._writer = pa.ipc.new_stream(self._file, schema, options=options)
        self._schema = schema
        self._exchanges: list[Exchange] = []
        self._events = 0

    def append(self, exchange: Exchange) -> bool:
        """Keep an ended exchange for the next batch; True when it is time to write one."""
        self._exchanges.append(exchange)
        self._events += len(exchange.kinds)
        return self._events >= MAX_EVENTS or len(self._exchanges) >= MAX_ROWS

    def write(self, watch: dict[str, Any]) -> None:
        """Write what has gathered, with what the worker says of itself; an empty batch carries that alone."""
        exchanges, self._exchanges, self._events = self._exchanges, [], 0
        batch = pa.record_batch(_columns(exchanges, self._worker), schema=self._schema)
        self._writer.write_batch(batch, custom_metadata={WATCH_KEY: orjson.dumps(watch)})
        self._file.flush()

    def close(self, watch: dict[str, Any]) -> None:
        """Write the last batch and the end of the stream."""
        self.write({**watch, "closing": True})
        self._writer.close()
        self._file.close()


def _columns(exchanges: list[Exchange], worker: int) -> list[pa.Array]:
    """The columns of a batch, in the order of CAPTURE_SCHEMA."""
    answers = [exchange.answer for exchange in exchanges]
    stamps = [stamp_ns for exchange in exchanges for stamp_ns in exchange.event_ns]
    event_ns = np.concatenate(stamps) if stamps else np.empty(0, np.int64)
    offsets = np.zeros(len(exchanges) + 1, np.int32)
    np.cumsum([len(exchange.kinds) for exchange in exchanges], out=offsets[1:])
    columns: dict[str, Any] = {
        "request_id": [exchange.request_id for exchange in exchanges],
        "stage": [exchange.stage for exchange in exchanges],
        "worker": [worker] * len(exchanges),
        "session_id": [None] * len(exchanges),
        "turn": [None] * len(exchanges),
        "intended_ns": [None] * len(exchanges),
        "sent_ns": [exchange.sent_ns for exchange in exchanges],
        "connect_ns": [exchange.connect_ns for exchange in exchanges],
        "first_byte_ns": [exchange.first_byte_ns for exchange in exchanges],
        "last_byte_ns": [exchange.last_byte_ns for exchange in exchanges],
        "event_ns": pa.ListArray.from_arrays(offsets, event_ns, type=_STAMPS),
        "event_kind": pa.array(
            [list(exchange.kinds) if any(exchange.kinds) else None for exchange in exchanges], _KINDS
        ),
        "event_tokens": pa.array([event_tokens(exchange) for exchange in exchanges], _TOKENS),
        "coalesced_events": [exchange.coalesced_events for exchange in exchanges],
        "max_lag_ns": [exchange.max_lag_ns for exchange in exchanges],
        "kernel_stamps": [exchange.unstamped == 0 for exchange in exchanges],
        "prompt_tokens": [answer.prompt_tokens for answer in answers],
        "output_tokens": [answer.output_tokens for answer in answers],
        "reasoning_tokens": [answer.reasoning_tokens for answer in answers],
        "cached_tokens": [answer.cached_tokens for answer in answers],
        "finish_reason": [answer.finish_reason for answer in answers],
        "error": [exchange.error for exchange in exchanges],
        "status": [exchange.status or None for exchange in exchanges],
        "request_bytes": [exchange.request_bytes for exchange in exchanges],
        "response_bytes": [exchange.response_bytes for exchange in exchanges],
        "response_id": [answer.response_id for answer in answers],
        "ended_ns": [exchange.ended_ns for exchange in exchanges],
    }
    return [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for field, column in zip(CAPTURE_SCHEMA, columns.values(), strict=True)
    ]
