"""Requests as arrays: what a batch of a capture holds, in the form that metrics are computed from."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loadgen.schema import CAPTURE_SCHEMA, CaptureError

ABSENT: Final = np.iinfo(np.int64).min
"""Stands for null in the integer arrays of Rows; no time, count or duration of a capture can be it."""

COLUMNS: Final = (
    "request_id",
    "stage",
    "turn",
    "intended_ns",
    "sent_ns",
    "connect_ns",
    "last_byte_ns",
    "ended_ns",
    "event_ns",
    "event_kind",
    "event_tokens",
    "coalesced_events",
    "max_lag_ns",
    "kernel_stamps",
    "prompt_tokens",
    "output_tokens",
    "error",
    "response_id",
    "retries",
    "wanted_input_tokens",
    "wanted_output_tokens",
    "counted_tokens",
    "target",
    "endpoint",
)
"""The columns that the metrics need; the others are not even decompressed."""

MAY_MISS: Final = frozenset(
    {"retries", "wanted_input_tokens", "wanted_output_tokens", "counted_tokens", "target", "endpoint"}
)
"""Columns that an early capture of this version does not have; they read as zeros, or as null where they may be."""

# Classes of the error column that are no failure of the endpoint.
DROPPED: Final = "dropped"  # never sent
CANCELLED: Final = "cancelled"  # left by its user

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """Requests of one stage and one worker as arrays of the same length; null is ABSENT.

    Events are flat: request i owns `event_ns[first_event[i] : first_event[i] + events[i]]`.
    """

    request_id: Integers
    turn: Integers  # ABSENT for a request of no session
    sent_ns: Integers
    intended_ns: Integers
    connect_ns: Integers
    last_byte_ns: Integers
    ended_ns: Integers  # when it was no longer in flight
    first_event: Integers
    events: Integers
    event_ns: Integers
    event_kind: NDArray[np.int8] | None  # None: all content
    event_tokens: Integers | None  # 0 where nobody told; None: nobody told for any
    told_tokens: Mask  # requests whose event_tokens are told
    coalesced_events: Integers
    max_lag_ns: Integers
    kernel_stamps: Mask
    prompt_tokens: Integers
    output_tokens: Integers
    retries: Integers
    wanted_input_tokens: Integers
    wanted_output_tokens: Integers
    counted_tokens: Integers  # output, by a local tokenizer
    target: Integers
    endpoint: Integers  # ABSENT for what was sent nowhere
    completed: Mask
    cancelled: Mask
    dropped: Mask
    error: pa.Array
    response_id: pa.Array

    def __len__(self) -> int:
        return len(self.sent_ns)


def to_rows(batch: pa.RecordBatch) -> Rows:
    """A batch's columns as numpy arrays, the lists flattened."""
    lists = batch.column("event_ns")
    offsets = lists.offsets.to_numpy().astype(np.int64)
    first_event, events = offsets[:-1] - offsets[0], np.diff(offsets)
    kinds, told_kinds = _aligned(batch.column("event_kind"), events)
    tokens, told_tokens = _aligned(batch.column("event_tokens"), events)
    error = batch.column("error")
    completed = error.is_null().to_numpy(zero_copy_only=False)
    last_byte_ns = integers(batch.column("last_byte_ns"))
    # The last byte's stamp is truer than the moment at which the worker came round to it; a failure may have no last byte.
    ended_ns = np.where(completed & (last_byte_ns != ABSENT), last_byte_ns, integers(batch.column("ended_ns")))
    return Rows(
        request_id=batch.column("request_id").to_numpy().view(np.int64),
        turn=integers(batch.column("turn")),
        sent_ns=integers(batch.column("sent_ns")),
        intended_ns=integers(batch.column("intended_ns")),
        connect_ns=integers(batch.column("connect_ns")),
        last_byte_ns=last_byte_ns,
        ended_ns=ended_ns,
        first_event=first_event,
        events=events,
        event_ns=lists.flatten().to_numpy(),
        event_kind=kinds.astype(np.int8) if told_kinds.any() else None,
        event_tokens=tokens if told_tokens.any() else None,
        told_tokens=told_tokens,
        coalesced_events=integers(batch.column("coalesced_events")),
        max_lag_ns=integers(batch.column("max_lag_ns")),
        kernel_stamps=batch.column("kernel_stamps").to_numpy(zero_copy_only=False),
        prompt_tokens=integers(batch.column("prompt_tokens")),
        output_tokens=integers(batch.column("output_tokens")),
        retries=(
            integers(batch.column("retries")) if "retries" in batch.schema.names else np.zeros(len(error), np.int64)
        ),
        wanted_input_tokens=_if_there(batch, "wanted_input_tokens"),
        wanted_output_tokens=_if_there(batch, "wanted_output_tokens"),
        counted_tokens=_if_there(batch, "counted_tokens"),
        target=(integers(batch.column("target")) if "target" in batch.schema.names else np.zeros(len(error), np.int64)),
        endpoint=_if_there(batch, "endpoint"),
        completed=completed,
        cancelled=_is_class(error, CANCELLED),
        dropped=_is_class(error, DROPPED),
        error=error,
        response_id=batch.column("response_id"),
    )


def _is_class(error: pa.DictionaryArray, name: str) -> Mask:
    """Which rows have this error class; by the dictionary's places, so that no row's word is looked at."""
    places = [place for place, word in enumerate(error.dictionary.to_pylist()) if word == name]
    if not places or error.null_count == len(error):
        return np.zeros(len(error), np.bool_)
    return np.isin(error.indices.fill_null(-1).to_numpy(zero_copy_only=False), places)


def _if_there(batch: pa.RecordBatch, name: str) -> Integers:
    if name not in batch.schema.names:
        return np.full(batch.num_rows, ABSENT)
    return integers(batch.column(name))


def integers(column: pa.Array) -> Integers:
    """A column of whole numbers; null is ABSENT."""
    if column.null_count == len(column):
        return np.full(len(column), ABSENT)
    wide = column.cast(pa.int64())
    values: Integers = (wide.fill_null(ABSENT) if wide.null_count else wide).to_numpy()
    return values


def _aligned(lists: pa.Array, events: Integers) -> tuple[Integers, Mask]:
    """The flat values of a nullable list column, zeros standing in for null lists; and which lists are told."""
    told: Mask = lists.is_valid().to_numpy(zero_copy_only=False)
    if not told.any():
        return np.zeros(0, np.int64), told
    lengths = lists.value_lengths().fill_null(0).to_numpy()
    if np.any(lengths[told] != events[told]):
        raise CaptureError("a list that goes with event_ns has another length than event_ns")
    values: Integers = lists.flatten().cast(pa.int64()).to_numpy()
    if told.all():
        return values, told
    aligned = np.zeros(int(events.sum()), np.int64)
    aligned[np.repeat(told, events)] = values
    return aligned, told


def pick(rows: Rows, wanted: Mask) -> Rows:
    """The rows for which `wanted` is true; the same object when it is true for all."""
    if wanted.all():
        return rows
    events = rows.events[wanted]
    of_wanted = np.repeat(wanted, rows.events)
    mask = pa.array(wanted)
    return Rows(
        request_id=rows.request_id[wanted],
        turn=rows.turn[wanted],
        sent_ns=rows.sent_ns[wanted],
        intended_ns=rows.intended_ns[wanted],
        connect_ns=rows.connect_ns[wanted],
        last_byte_ns=rows.last_byte_ns[wanted],
        ended_ns=rows.ended_ns[wanted],
        first_event=np.cumsum(events) - events,
        events=events,
        event_ns=rows.event_ns[of_wanted],
        event_kind=None if rows.event_kind is None else rows.event_kind[of_wanted],
        event_tokens=None if rows.event_tokens is None else rows.event_tokens[of_wanted],
        told_tokens=rows.told_tokens[wanted],
        coalesced_events=rows.coalesced_events[wanted],
        max_lag_ns=rows.max_lag_ns[wanted],
        kernel_stamps=rows.kernel_stamps[wanted],
        prompt_tokens=rows.prompt_tokens[wanted],
        output_tokens=rows.output_tokens[wanted],
        retries=rows.retries[wanted],
        wanted_input_tokens=rows.wanted_input_tokens[wanted],
        wanted_output_tokens=rows.wanted_output_tokens[wanted],
        counted_tokens=rows.counted_tokens[wanted],
        target=rows.target[wanted],
        endpoint=rows.endpoint[wanted],
        completed=rows.completed[wanted],
        cancelled=rows.cancelled[wanted],
        dropped=rows.dropped[wanted],
        error=rows.error.filter(mask),
        response_id=rows.response_id.filter(mask),
    )


assert set(COLUMNS) <= set(CAPTURE_SCHEMA.names)
