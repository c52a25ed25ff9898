"""RUN -> what its workers wrote, a batch at a time.

A run that was interrupted and resumed has a folder of captures for each part. A stage is told by one part alone: the one
that `part` names in its entry of run.json (the first where there is none).

A capture is read twice. The first pass (`open_run`) looks at the batches' metadata and counts the whole ones; the second
(`stage_rows`) reads the columns. Whatever was written after the first pass is left alone, so that a run that is still
going on, or a worker that was killed in the middle of a batch, gives one consistent picture: all batches that were
whole when the reading began.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
from numpy.typing import NDArray

from loadgen.schema import CAPTURE_SCHEMA, MUST_AGREE, WATCH_KEY, CaptureError, decode_metadata

RUN_SCHEMA: Final = 1
"""The version of run.json that is understood here."""

ABSENT: Final = np.iinfo(np.int64).min
"""Stands for null in the integer arrays of Rows; no time, count or duration of a capture can be it."""

EVENTS_AT_ONCE: Final = 1 << 16
"""Rows are taken in pieces of about this many events: 512 KB an array, so that a piece stays in the cache from one step
to the next and memory does not grow with the batch."""

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
)
"""The columns that the metrics need; the others are not even decompressed."""

OF_A_PART: Final = frozenset({"workers", "stages"})
"""Of what captures must agree on: what those of another part may say otherwise."""

MAY_MISS: Final = frozenset({"retries", "wanted_input_tokens", "wanted_output_tokens", "counted_tokens"})
"""Columns that an early capture of this version does not have; they read as zeros, or as null where they may be."""

# Classes of the error column that are no failure of the endpoint.
DROPPED: Final = "dropped"  # never sent
CANCELLED: Final = "cancelled"  # left by its user

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Capture:
    """One worker's file: its metadata, what it said of itself in each whole batch, and how far it can be read."""

    path: Path
    part: int
    worker: int
    facts: dict[str, Any]
    watches: list[dict[str, Any]]
    batches: int
    rows: int
    closed: bool  # the worker ended in order; else it was killed, or is still at work

    @property
    def known_until_ns(self) -> int | None:
        """The last moment that the whole batches tell about; None if they tell nothing."""
        return max((int(t_ns) for watch in self.watches for t_ns, *_ in watch.get("samples", ())), default=None)


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory: run.json (or what the captures' metadata says in its place) and the captures by worker."""

    run_dir: Path
    facts: dict[str, Any]
    captures: list[Capture]
    unreadable: list[tuple[int, int]]  # (part, worker) whose file has not even a whole head

    def of_stage(self, plan: dict[str, Any]) -> list[Capture]:
        """The captures that tell a stage; `plan` is its entry in run.json."""
        return [capture for capture in self.captures if capture.part == part_of(plan)]

    @property
    def last_part(self) -> int:
        return max(capture.part for capture in self.captures)

    @property
    def workers(self) -> int:
        """As planned, in the last part."""
        return max(int(capture.facts["workers"]) for capture in self.captures if capture.part == self.last_part)


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
    completed: Mask
    cancelled: Mask
    dropped: Mask
    error: pa.Array
    response_id: pa.Array

    def __len__(self) -> int:
        return len(self.sent_ns)


def open_run(run_dir: Path) -> Run:
    """Reads run.json and the captures' metadata. CaptureError if there is nothing to read or it does not belong together."""
    paths = sorted((run_dir / "capture").rglob("worker-*.arrow"))
    if not paths:
        raise CaptureError(f"{run_dir} holds no capture: there is no capture/worker-NN.arrow in it")
    captures, unreadable = [], []
    for path in paths:
        capture = open_capture(path)
        if capture is None:
            unreadable.append((_part_of(path), _number_in(path.stem)))
        else:
            captures.append(capture)
    if not captures:
        raise CaptureError(f"no capture in {run_dir} has a whole head yet: no worker got as far as writing it")
    captures.sort(key=lambda capture: (capture.part, capture.path))
    for key in MUST_AGREE:
        for part in {capture.part for capture in captures} if key in OF_A_PART else {0}:
            seen = sorted({json.dumps(one.facts.get(key)) for one in captures if part in (0, one.part)})
            if len(seen) > 1:
                raise CaptureError(f"the captures in {run_dir} disagree on {key}: {', '.join(seen)[:300]}")
    return Run(run_dir, _run_facts(run_dir, captures), captures, unreadable)


def part_of(plan: dict[str, Any]) -> int:
    """The part of the run that tells a stage."""
    return int(plan.get("part", 1))


def _part_of(path: Path) -> int:
    return _number_in(path.parent.name) if path.parent.name != "capture" else 1


def _number_in(name: str) -> int:
    found = re.search(r"\d+", name)
    return int(found.group()) if found else -1


def _run_facts(run_dir: Path, captures: list[Capture]) -> dict[str, Any]:
    first = captures[0].facts
    fallback = {
        "schema": RUN_SCHEMA,
        "run_id": first["run_id"],
        "loadgen": first["loadgen"],
        "started_at": None,
        "spec": first["spec"],
        "stages": first["stages"],
        "host": {key: first[name] for key, name in _HOST_FACTS.items()},
        "workers": [{"worker": capture.worker, "core": capture.facts["core"]} for capture in captures],
        "ended": None,
    }
    try:
        told: dict[str, Any] = json.loads((run_dir / "run.json").read_bytes())
    except (FileNotFoundError, ValueError):  # a killed run may leave none, or half of it
        return fallback
    if told.get("schema") != RUN_SCHEMA:
        raise CaptureError(f"run.json has version {told.get('schema')}, this loadgen reads version {RUN_SCHEMA}")
    if told.get("run_id", first["run_id"]) != first["run_id"]:
        raise CaptureError(f"run.json is of run {told['run_id']}, the captures beside it are of run {first['run_id']}")
    return fallback | told


_HOST_FACTS: Final = {"name": "host", "kernel": "kernel", "clock_source": "clock_source"}


def open_capture(path: Path) -> Capture | None:
    """The metadata and the whole batches of one file; None when the file was cut within its head."""
    facts: dict[str, Any] | None = None
    watches, batches, rows = [], 0, 0
    # `stage` alone is decompressed: two bytes a request.
    for item in _read(path, ("stage",)):
        if isinstance(item, pa.Schema):
            facts = decode_metadata(item.metadata)
            continue
        batches += 1
        rows += item.batch.num_rows
        told = item.custom_metadata
        if told and WATCH_KEY.encode() in told:
            try:
                watches.append(json.loads(told[WATCH_KEY.encode()]))
            except (ValueError, RecursionError):
                raise CaptureError(f"{path} is damaged: what its worker says of itself is no JSON") from None
    if facts is None:
        return None
    closed = bool(watches) and bool(watches[-1].get("closing"))
    return Capture(path, _part_of(path), int(facts["worker"]), facts, watches, batches, rows, closed)


def _read(path: Path, columns: tuple[str, ...], first: int = 0) -> Iterator[Any]:
    """The schema, then every whole batch from the first-th on with its metadata; ends where the file stops making sense.

    Arrow tells a cut by ArrowInvalid or OSError, depending on the byte; a cut between two messages is a plain end.
    """
    with pa.OSFile(str(path)) as source:
        try:
            schema = ipc.open_stream(source).schema
        except (pa.ArrowInvalid, OSError):
            return
        yield schema
        found = [name for name in columns if name in schema.names]
        if missing := [name for name in columns if name not in found and name not in MAY_MISS]:
            raise CaptureError(f"{path} has no column {missing[0]}")
        for name in found:
            if schema.field(name).type != CAPTURE_SCHEMA.field(name).type:
                raise CaptureError(f"{path}: the column {name} is of another type ({schema.field(name).type})")
        source.seek(0)
        options = ipc.IpcReadOptions(included_fields=[schema.names.index(name) for name in found], use_threads=False)
        reader = ipc.open_stream(_from_batch(path, source, first) if first else source, options=options)
        while True:
            try:
                batch = reader.read_next_batch_with_custom_metadata()
                if batch.batch is not None:
                    # Offsets and indices of a damaged file would lead out of its buffers, and take this process along.
                    batch.batch.validate(full=True)
            except (StopIteration, pa.ArrowException, OSError):
                return
            yield batch


class _HeadThenRest:
    """Some bytes, then what is left of a file, as one file to read."""

    closed = False

    def __init__(self, head: bytes, rest: pa.NativeFile) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer where the head ends, which is between two messages."""
        if not self._head:
            found: bytes = self._rest.read(size)
            return found
        taken, self._head = self._head[:size], self._head[size:]
        return taken


def _from_batch(path: Path, source: pa.NativeFile, first: int) -> pa.PythonFile:
    """The stream without the batches before the first-th; schema and dictionaries, which later batches need, stay.

    Messages are found by their heads: what is left out is not even read from the disk.
    """
    kept, batches = bytearray(), 0
    with pa.memory_map(str(path)) as whole:
        messages = ipc.MessageReader.open_stream(whole)
        while batches < first:
            begin = whole.tell()
            message = messages.read_next_message()
            if message.type == "record batch":
                batches += 1
            else:
                source.seek(begin)
                kept += source.read(whole.tell() - begin)
        source.seek(whole.tell())
    return pa.PythonFile(_HeadThenRest(bytes(kept), source), mode="r")


@dataclass(frozen=True, slots=True)
class Span:
    """Batches of one capture: first <= number < after."""

    capture: Capture
    first: int
    after: int


def shares(captures: list[Capture], jobs: int) -> list[list[Span]]:
    """All batches of a run in their order, in `jobs` runs of about equal numbers of requests; never an empty one."""
    todo = [(capture, number) for capture in captures for number in range(capture.batches)]
    found = []
    for part in np.array_split(np.arange(len(todo)), min(jobs, len(todo)) or 1):
        spans: list[Span] = []
        for capture, number in (todo[at] for at in part.tolist()):
            if spans and spans[-1].capture is capture:
                spans[-1] = Span(capture, spans[-1].first, number + 1)
            else:
                spans.append(Span(capture, number, number + 1))
        found.append(spans)
    return found


def stage_rows(capture: Capture) -> Iterator[tuple[int, Rows]]:
    """(stage, rows) of every whole batch, in pieces of about EVENTS_AT_ONCE events.

    CaptureError for a list that does not go with event_ns.
    """
    return span_rows(Span(capture, 0, capture.batches))


def span_rows(span: Span) -> Iterator[tuple[int, Rows]]:
    """As `stage_rows`, of some batches."""
    for stage, piece in stage_pieces(span, COLUMNS):
        yield stage, to_rows(piece)


def stage_pieces(span: Span, columns: tuple[str, ...]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(stage, its rows as Arrow has them), in the same pieces; for who wants other columns as well.

    Small batches that follow each other are taken together: a piece costs a hundred calls, however little is in it.
    """
    gathered: list[pa.RecordBatch] = []
    of_stage, events = -1, 0
    for stage, batch in _stage_batches(span, columns):
        its_events = _event_count(batch)
        if gathered and (stage != of_stage or events + its_events > EVENTS_AT_ONCE):
            yield of_stage, _together(gathered)
            gathered, events = [], 0
        of_stage, events = stage, events + its_events
        if its_events > EVENTS_AT_ONCE:
            for piece in _pieces(batch):
                yield stage, piece
            events = 0
        else:
            gathered.append(batch)
    if gathered:
        yield of_stage, _together(gathered)


def _stage_batches(span: Span, columns: tuple[str, ...]) -> Iterator[tuple[int, pa.RecordBatch]]:
    number = span.first
    for item in _read(span.capture.path, columns, span.first):
        if isinstance(item, pa.Schema):
            continue
        if number == span.after:
            return
        number += 1
        stages = _integers(item.batch.column("stage"))
        for stage in np.unique(stages).tolist():
            mine = stages == stage
            yield stage, item.batch if mine.all() else item.batch.filter(pa.array(mine))


def _event_count(batch: pa.RecordBatch) -> int:
    offsets = batch.column("event_ns").offsets
    return int(offsets[-1].as_py()) - int(offsets[0].as_py()) if batch.num_rows else 0


def _together(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    whole: pa.RecordBatch = pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
    return whole


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    offsets = batch.column("event_ns").offsets.to_numpy()
    first = 0
    while first < batch.num_rows:
        after = int(np.searchsorted(offsets, int(offsets[first]) + EVENTS_AT_ONCE, side="right")) - 1
        after = min(max(after, first + 1), batch.num_rows)
        yield batch.slice(first, after - first)
        first = after


def to_rows(batch: pa.RecordBatch) -> Rows:
    """A batch's columns as numpy arrays, the lists flattened."""
    lists = batch.column("event_ns")
    offsets = lists.offsets.to_numpy().astype(np.int64)
    first_event, events = offsets[:-1] - offsets[0], np.diff(offsets)
    kinds, told_kinds = _aligned(batch.column("event_kind"), events)
    tokens, told_tokens = _aligned(batch.column("event_tokens"), events)
    error = batch.column("error")
    completed = error.is_null().to_numpy(zero_copy_only=False)
    last_byte_ns = _integers(batch.column("last_byte_ns"))
    # The last byte's stamp is truer than the moment at which the worker came round to it; a failure may have no last byte.
    ended_ns = np.where(completed & (last_byte_ns != ABSENT), last_byte_ns, _integers(batch.column("ended_ns")))
    return Rows(
        request_id=batch.column("request_id").to_numpy().view(np.int64),
        turn=_integers(batch.column("turn")),
        sent_ns=_integers(batch.column("sent_ns")),
        intended_ns=_integers(batch.column("intended_ns")),
        connect_ns=_integers(batch.column("connect_ns")),
        last_byte_ns=last_byte_ns,
        ended_ns=ended_ns,
        first_event=first_event,
        events=events,
        event_ns=lists.flatten().to_numpy(),
        event_kind=kinds.astype(np.int8) if told_kinds.any() else None,
        event_tokens=tokens if told_tokens.any() else None,
        told_tokens=told_tokens,
        coalesced_events=_integers(batch.column("coalesced_events")),
        max_lag_ns=_integers(batch.column("max_lag_ns")),
        kernel_stamps=batch.column("kernel_stamps").to_numpy(zero_copy_only=False),
        prompt_tokens=_integers(batch.column("prompt_tokens")),
        output_tokens=_integers(batch.column("output_tokens")),
        retries=(
            _integers(batch.column("retries")) if "retries" in batch.schema.names else np.zeros(len(error), np.int64)
        ),
        wanted_input_tokens=_if_there(batch, "wanted_input_tokens"),
        wanted_output_tokens=_if_there(batch, "wanted_output_tokens"),
        counted_tokens=_if_there(batch, "counted_tokens"),
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
    return _integers(batch.column(name))


def _integers(column: pa.Array) -> Integers:
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
        completed=rows.completed[wanted],
        cancelled=rows.cancelled[wanted],
        dropped=rows.dropped[wanted],
        error=rows.error.filter(mask),
        response_id=rows.response_id.filter(mask),
    )


assert set(COLUMNS) <= set(CAPTURE_SCHEMA.names)
