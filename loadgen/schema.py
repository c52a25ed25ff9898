"""The capture: the only thing that the load side and the analysis side share.

A run directory holds `capture/worker-NN.arrow` (Arrow IPC stream format, zstd buffers), one row a request, written
when the request has ended. Points in time are CLOCK_MONOTONIC ns of the machine that wrote them.

File metadata (schema metadata, every value JSON): the keys of FileKey.
Batch metadata, key WATCH_KEY: one JSON object, what the worker says of itself since the batch before:

    samples        [[t_ns, cpu_ns, realtime_offset_ns, in_flight], ...]  a sample about every 100 ms; cpu_ns is the
                   worker's user + system time since its start
    stages         [{"stage", "start_ns", "measure_ns", "stop_ns", "idle_ns", "done_ns"}, ...]  cumulative
                   start_ns    the common start; the same in every worker
                   measure_ns  warm-up ends here; null until it has, where it is bounded by requests
                   stop_ns     planned end of sending (--duration, or the schedule's end), or null
                   idle_ns     the first moment at which this worker had a free slot and nothing left to send, or null
                   done_ns     its last request has ended, or null while the stage runs
    sent           requests sent so far, all stages
    retried        attempts refused with 429 or 503 and tried again, so far
    reopened       kept-alive connections found closed and opened anew, so far
    unstamped      reads without a kernel stamp (the time of the read was taken), so far
    unprepared     requests that were not prepared when they were due, or a slot was free for them, so far
    reads          reads so far
    clock_steps    [[t_ns, step_ns], ...]  steps of CLOCK_REALTIME seen so far
    sleeps         [[t_ns, slept_ns], ...]  times that the machine was suspended so far
    closing        true in the last batch of a worker that ended in order

Version history
    1: first
"""

import json
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

import pyarrow as pa

SCHEMA_VERSION: Final = 1

WATCH_KEY: Final = "watch"

FILE_KEYS: Final = (
    "schema",  # int, SCHEMA_VERSION
    "loadgen",  # str, the version that wrote it
    "run_id",  # str, the same in every file of a run
    "worker",  # int
    "workers",  # int
    "core",  # int, the CPU that the worker is pinned to, or null
    "host",  # str
    "kernel",  # str
    "clock_source",  # str
    "stamp_source",  # "kernel" or "read": what the stamps of this worker are meant to be; a row tells what they were
    "transport",  # "kernel" or "aiohttp"
    "realtime_offset_ns",  # int, CLOCK_REALTIME - CLOCK_MONOTONIC at the worker's start
    "spec",  # object, the resolved spec as in run.json; no secret
    "stages",  # [object], the planned stages as in run.json
)

MUST_AGREE: Final = ("schema", "run_id", "workers", "transport", "stages")
"""File metadata that has to be the same in all captures of a run."""


class EventKind(IntEnum):
    """What an event that carried output carried; values of `event_kind`."""

    CONTENT = 0
    REASONING = 1
    TOOL = 2


_names = pa.dictionary(pa.int16(), pa.string())

CAPTURE_SCHEMA: Final = pa.schema(
    [
        pa.field("request_id", pa.uint64(), nullable=False),  # unique in the run
        pa.field("stage", pa.uint16(), nullable=False),
        pa.field("worker", pa.uint16(), nullable=False),
        pa.field("session_id", pa.uint64()),
        pa.field("turn", pa.uint16()),
        pa.field("intended_ns", pa.int64()),  # due time, also of a retried request the first; null in closed loop
        pa.field("sent_ns", pa.int64(), nullable=False),  # just before the first byte went to the kernel
        pa.field("connect_ns", pa.int64()),  # duration; set where this request paid for the connection
        pa.field("first_byte_ns", pa.int64()),
        pa.field("last_byte_ns", pa.int64()),
        pa.field("event_ns", pa.list_(pa.int64()), nullable=False),  # stamp of each event that carried output
        pa.field("event_kind", pa.list_(pa.int8())),  # EventKind; null when all are content
        pa.field("event_tokens", pa.list_(pa.uint16())),  # null where nobody tells
        pa.field("coalesced_events", pa.uint32(), nullable=False),  # events that shared a read with an earlier one
        pa.field("max_lag_ns", pa.int64(), nullable=False),  # the worst (time of read - stamp) of this request
        pa.field("kernel_stamps", pa.bool_(), nullable=False),  # every stamp of this row is the kernel's
        pa.field("prompt_tokens", pa.int32()),
        pa.field("output_tokens", pa.int32()),
        pa.field("reasoning_tokens", pa.int32()),
        pa.field("cached_tokens", pa.int32()),
        pa.field("finish_reason", _names),
        pa.field("error", _names),  # null: completed
        pa.field("status", pa.int16()),  # HTTP status; null when no response came
        pa.field("request_bytes", pa.uint32(), nullable=False),
        pa.field("response_bytes", pa.uint32(), nullable=False),
        pa.field("response_id", pa.string()),
        pa.field("ended_ns", pa.int64(), nullable=False),  # when the client was done with it, failed or not
        pa.field("retries", pa.uint16(), nullable=False),  # refusals (429, 503) before this attempt
        pa.field("wanted_input_tokens", pa.int32()),  # what the prompt was made to be; null where it is as it came
        pa.field("wanted_output_tokens", pa.int32()),  # the limit that was asked for
        pa.field("counted_tokens", pa.int32()),  # output, by a local tokenizer, where the server did not count
        pa.field("target", pa.uint16(), nullable=False),  # a place in the `targets` of run.json
        pa.field("endpoint", pa.uint16()),  # likewise in its `endpoints`, the URLs; null where it was sent nowhere
    ]
)


# Two odd numbers: each step is a permutation of 0..2^64-1, and so is the whole.
_SPREAD: Final = (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93)
_64_BITS: Final = (1 << 64) - 1


def trace_number(request_id: int) -> int:
    """What a request of a run is called in traces: 64 bits, never 0, another for each id, spread over all of them.

    The trace id (W3C Trace Context, --traceparent) is run_id followed by its 16 hex digits, which are the span id too.
    Spread, because samplers that go by the trace id take its last 56 bits for random.
    """
    number = (request_id + 1) * _SPREAD[0] & _64_BITS
    return (number ^ number >> 32) * _SPREAD[1] & _64_BITS


class CaptureError(Exception):
    """A capture that cannot be read, or captures that do not belong together; one sentence."""


def encode_metadata(facts: Mapping[str, Any]) -> dict[str, str]:
    """File metadata as Arrow wants it: every FILE_KEYS entry of `facts`, JSON-encoded. KeyError if one is missing."""
    return {key: json.dumps(facts[key]) for key in FILE_KEYS}


def decode_metadata(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """The inverse of encode_metadata. CaptureError if this is no capture, or one of a version not known here."""
    if not metadata or b"schema" not in metadata:
        raise CaptureError("this Arrow file is no loadgen capture: its metadata has no schema version")
    try:
        facts = {key.decode(): json.loads(value) for key, value in metadata.items()}
    except (ValueError, RecursionError):
        raise CaptureError("the capture's metadata is damaged: it is no JSON") from None
    if facts["schema"] != SCHEMA_VERSION:
        raise CaptureError(
            f"the capture has schema version {facts['schema']}, this loadgen reads version {SCHEMA_VERSION}"
        )
    if missing := [key for key in FILE_KEYS if key not in facts]:
        raise CaptureError(f"the capture's metadata is damaged: it has no {missing[0]}")
    return facts


# The server's own metrics: capture/scrape.arrow (of a resumed run also in capture/part-N/), one row a sample, written by
# loadgen.scrape. Batch metadata, key WATCH_KEY: {"scrapes": [...], "closing"}, each scrape (answered or not) with
#     source      index into the file's `sources`
#     t_send_ns, t_recv_ns  around it; its rows have the same
#     border      true where it was made for the start or end of a window, or of a stage
#     status      HTTP status, or null
#     error       null, or why it holds nothing, in words
#     bytes, samples, bad_lines, left_out
# and `missed`, how many scrapes a source was too slow for so far, [n a source].

SCRAPE_SCHEMA_VERSION: Final = 1

SCRAPE_FILE_KEYS: Final = (
    "scrape_schema",  # int, SCRAPE_SCHEMA_VERSION
    "run_id",  # str
    "sources",  # [str], URLs without query
    "every_ns",  # int, between two scrapes of a source
    "realtime_offset_ns",  # int, as in a capture
)

_texts = pa.dictionary(pa.int32(), pa.string())

SCRAPE_SCHEMA: Final = pa.schema(
    [
        pa.field("t_send_ns", pa.int64(), nullable=False),  # CLOCK_MONOTONIC, as everything else
        pa.field("t_recv_ns", pa.int64(), nullable=False),  # the whole page was there
        pa.field("source", pa.uint16(), nullable=False),
        pa.field("name", _texts, nullable=False),  # as the server wrote it, with _total, _bucket, _sum, _count
        pa.field("labels", _texts, nullable=False),  # a JSON object, keys in order
        pa.field("value", pa.float64(), nullable=False),  # finite
    ]
)
