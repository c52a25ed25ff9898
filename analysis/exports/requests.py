"""The requests of a run as a table: what the capture says of each, and its metrics."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from analysis import metrics
from analysis.opened import Opened, Piece, of_window
from analysis.rows import ABSENT, Integers, Rows
from analysis.targets import names_of, urls_of

REQUESTS: Final = pa.schema(
    [
        ("request_id", pa.uint64()),
        ("stage", pa.uint16()),
        ("worker", pa.uint16()),
        ("session_id", pa.uint64()),
        ("turn", pa.uint16()),
        # Points in time, ns since the run's start.
        ("intended_ns", pa.int64()),
        ("sent_ns", pa.int64()),
        ("first_byte_ns", pa.int64()),
        ("last_byte_ns", pa.int64()),
        ("ended_ns", pa.int64()),
        # Durations.
        ("connect_ns", pa.int64()),
        ("ttft_ns", pa.int64()),
        ("ttft_intended_ns", pa.int64()),
        ("ttfa_ns", pa.int64()),
        ("tpot_ns", pa.int64()),
        ("e2e_ns", pa.int64()),
        ("e2e_intended_ns", pa.int64()),
        ("end_of_stream_ns", pa.int64()),
        ("lateness_ns", pa.int64()),
        ("max_lag_ns", pa.int64()),
        # Counts.
        ("events", pa.uint32()),
        ("coalesced_events", pa.uint32()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int64()),
        ("wanted_input_tokens", pa.int64()),
        ("wanted_output_tokens", pa.int64()),
        ("counted_tokens", pa.int64()),
        ("reasoning_tokens", pa.int32()),
        ("cached_tokens", pa.int32()),
        ("request_bytes", pa.uint32()),
        ("response_bytes", pa.uint32()),
        ("retries", pa.uint16()),
        # What became of it.
        ("kernel_stamps", pa.bool_()),
        ("status", pa.int16()),
        ("error", pa.string()),
        ("finish_reason", pa.string()),
        ("response_id", pa.string()),
        # What it went to: the name of the target, the URL.
        ("target", pa.string()),
        ("endpoint", pa.string()),
        ("in_window", pa.bool_()),
        ("measured", pa.bool_()),
    ]
)
"""docs/exports.md tells what each is; `output_tokens` is as the metrics take it, not null where the server is silent."""

_AS_CAPTURED: Final = (
    "request_id",
    "stage",
    "worker",
    "session_id",
    "turn",
    "connect_ns",
    "max_lag_ns",
    "coalesced_events",
    "prompt_tokens",
    "reasoning_tokens",
    "cached_tokens",
    "request_bytes",
    "response_bytes",
    "kernel_stamps",
    "status",
    "error",
    "finish_reason",
    "response_id",
)

_FROM_START: Final = ("intended_ns", "sent_ns", "first_byte_ns", "last_byte_ns", "ended_ns")


def request_batches(opened: Opened) -> Iterator[pa.RecordBatch]:
    """All requests of the run, in batches of REQUESTS."""
    for piece in opened.pieces():
        yield request_batch(opened, piece)


def request_batch(opened: Opened, piece: Piece) -> pa.RecordBatch:
    """A piece's requests; `in_window` as the summary's `sent` counts, `measured` as its latencies do."""
    rows, batch = piece.rows, piece.batch
    in_window = of_window(opened.windows[piece.stage], rows)
    found: dict[str, pa.Array] = {name: batch.column(name).cast(REQUESTS.field(name).type) for name in _AS_CAPTURED}
    for name in _FROM_START:
        values = rows.ended_ns if name == "ended_ns" else batch.column(name).fill_null(ABSENT).to_numpy()
        found[name] = nullable(values, values - opened.origin_ns)
    for name, definition in metrics.A_REQUEST.items():
        if name != "connect":
            found[f"{name}_ns"] = nullable(definition(rows))
    found |= {
        "lateness_ns": nullable(metrics.lateness_ns(rows)),
        "events": pa.array(rows.events.astype(np.uint32)),
        "output_tokens": pa.array(metrics.output_tokens(rows)),
        "wanted_input_tokens": nullable(rows.wanted_input_tokens),
        "wanted_output_tokens": nullable(rows.wanted_output_tokens),
        "counted_tokens": nullable(rows.counted_tokens),
        "retries": pa.array(rows.retries.astype(np.uint16)),
        "target": _named(names_of(opened.run.facts["spec"]), rows.target),
        "endpoint": _named(urls_of(opened.run.facts["spec"]), rows.endpoint),
        "in_window": pa.array(in_window),
        "measured": pa.array(in_window & rows.completed),
    }
    return pa.RecordBatch.from_arrays([found[name] for name in REQUESTS.names], schema=REQUESTS)


def _named(names: list[str], places: Integers) -> pa.Array:
    """The name at each place; null for ABSENT, and of an early capture, which does not tell, that of the only one."""
    if len(names) == 1:
        places = np.where(places == ABSENT, 0, places)
    known = (places >= 0) & (places < len(names))
    return pa.array(names, pa.string()).take(pa.array(np.where(known, places, 0), mask=~known))


def nullable(values: Integers, shown: Integers | None = None) -> pa.Array:
    """int64 with null for ABSENT; `shown` in its place where something is to be shown in place of the values."""
    absent = values == ABSENT
    return pa.array(values if shown is None else shown, mask=absent if absent.any() else None)


def event_numbers(rows: Rows) -> Integers:
    """The place of each event within its request, from 0."""
    return np.arange(len(rows.event_ns)) - np.repeat(rows.first_event, rows.events)
