"""Tallies as bytes, and back: what one machine counted, for another to add up.

Arrays go into an Arrow stream, one a row, and what they are part of behind them as JSON: so that nothing is run that was
received, and what was cut or altered is noticed. The eight bytes of integers stand apart by their place, for the high ones
of times and counts hardly differ: that, and zstd, leaves a third of the bytes that a request takes.
"""

import hashlib
import json
from collections import Counter
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
from numpy.typing import NDArray

from analysis import slo
from analysis.clocks import Clock
from analysis.closeups import CloseUp, Kept, Pool
from analysis.histogram import Histogram
from analysis.jobs import Order
from analysis.rates import Timeline
from analysis.tally import LengthTally, StageTally, TurnTally, WorkerTally
from analysis.window import Window
from loadgen.schema import CaptureError

KINDS: Final = {
    kind.__name__: kind
    for kind in (
        Clock,
        CloseUp,
        Histogram,
        Kept,
        LengthTally,
        Order,
        Pool,
        slo.Limit,
        StageTally,
        Timeline,
        TurnTally,
        Window,
        WorkerTally,
    )
}
"""What tallies, and the order for them, consist of beside plain values, dicts, lists and arrays."""

FORMAT: Final = hashlib.sha256(
    repr(sorted((name, kind.__match_args__) for name, kind in KINDS.items())).encode()
).hexdigest()[:16]
"""Who counts and who adds up know the same fields in the same order, or nothing is added up."""

DTYPES: Final = {np.dtype(name).str: np.dtype(name) for name in ("int64", "int32", "bool")}

SKELETON: Final = "json"
"""In place of a dtype: the last row, what the arrays are part of."""

_ROWS: Final = pa.schema([pa.field("dtype", pa.string(), nullable=False), pa.field("values", pa.large_binary())])

Array = NDArray[Any]


class _Packer:
    """Arrays as rows, each once: lists of the same arrays are one row, and the same object again on the other side."""

    def __init__(self) -> None:
        self.arrays: list[Array] = []
        self._known: dict[tuple[int, ...], int] = {}

    def plain(self, value: Any) -> Any:
        """A value as JSON has it: what is not plain is an object with one key."""
        if isinstance(value, Histogram):
            return self._histogram(value)
        if isinstance(value, np.ndarray):
            return {"array": self._row([value])}
        if isinstance(value, list) and value and all(isinstance(one, np.ndarray) for one in value):
            return {"pieces": self._row(value)}
        if isinstance(value, Counter):
            return {"counter": sorted(value.items())}
        if isinstance(value, dict):
            return {"dict": [[self.plain(key), self.plain(one)] for key, one in value.items()]}
        if isinstance(value, tuple) and type(value).__name__ in KINDS:  # a NamedTuple
            return {type(value).__name__: [self.plain(one) for one in value]}
        if isinstance(value, tuple):
            return {"tuple": [self.plain(one) for one in value]}
        if isinstance(value, list):
            return [self.plain(one) for one in value]
        if KINDS.get(type(value).__name__) is type(value):
            return {type(value).__name__: [self.plain(getattr(value, name)) for name in value.__match_args__]}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"{type(value).__name__} is no part of a tally that packing.KINDS knows")

    def _histogram(self, histogram: Histogram) -> Any:
        """Of its places those that are used, some hundred of 33,792; and of what was never filled nothing."""
        if not histogram.total:
            return {"Histogram": None}
        used = np.flatnonzero(histogram.counts)
        rest = [histogram.total, histogram.total_ns, histogram.min_ns, histogram.max_ns, histogram.out_of_range]
        values = None if histogram.pieces is None else self._row(histogram.pieces)
        return {"Histogram": [self._row([used]), self._row([histogram.counts[used]]), values, *rest]}

    def _row(self, pieces: list[Array]) -> int:
        name = tuple(map(id, pieces))
        if name not in self._known:
            self._known[name] = len(self.arrays)
            self.arrays.append(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
        return self._known[name]


def pack(value: Any, compression: str | None = "zstd") -> bytes:
    """Plain values, KINDS and arrays of DTYPES as bytes. TypeError for anything else."""
    packer = _Packer()
    skeleton = packer.plain(value)
    if unknown := {array.dtype.str for array in packer.arrays} - DTYPES.keys():
        raise TypeError(f"arrays of {', '.join(sorted(unknown))} are no part of a tally that packing.DTYPES knows")
    rows = [(array.dtype.str, _split(array)) for array in packer.arrays]
    rows.append((SKELETON, json.dumps(skeleton).encode()))
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([dtype for dtype, _ in rows], pa.string()),
            pa.array([split for _, split in rows], pa.large_binary()),
        ],
        schema=_ROWS.with_metadata({"packed": FORMAT}),
    )
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, batch.schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(batch)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def unpack(packed: bytes) -> Any:
    """The inverse of `pack`. CaptureError where these bytes are not whole, or are of another version."""
    try:
        table = ipc.open_stream(packed).read_all()
        table.validate(full=True)
        told = table.schema.metadata or {}
        if told.get(b"packed") != FORMAT.encode():
            raise CaptureError("a part of the analysis is of another version of loadgen")
        *dtypes, last = table.column("dtype").to_pylist()
        *values, skeleton = [value.as_buffer() for value in table.column("values")]
        if last != SKELETON:
            raise CaptureError("a part of the analysis is cut")
        arrays = [_joined(DTYPES[dtype], one) for dtype, one in zip(dtypes, values, strict=True)]
        return _built(json.loads(skeleton.to_pybytes()), arrays)
    except (pa.ArrowException, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise CaptureError(f"a part of the analysis is damaged ({type(error).__name__}: {str(error)[:100]})") from None


def _split(array: Array) -> bytes:
    flat = np.ascontiguousarray(array)
    return flat.view(np.uint8).reshape(len(flat), flat.itemsize).T.tobytes()


def _joined(dtype: np.dtype[Any], values: pa.Buffer) -> Array:
    split = np.frombuffer(values, np.uint8).reshape(dtype.itemsize, -1)
    return np.array(split.T, order="C").view(dtype).reshape(-1)


def _built(value: Any, arrays: list[Array]) -> Any:
    if isinstance(value, list):
        return [_built(one, arrays) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "array":
        return arrays[inner]
    if kind == "pieces":
        return [arrays[inner]]
    if kind == "counter":
        return Counter(dict(inner))
    if kind == "dict":
        return {_built(key, arrays): _built(one, arrays) for key, one in inner}
    if kind == "tuple":
        return tuple(_built(one, arrays) for one in inner)
    if kind == "Histogram":
        return _histogram(inner, arrays)
    return KINDS[kind](*(_built(one, arrays) for one in inner))


def _histogram(told: list[Any] | None, arrays: list[Array]) -> Histogram:
    found = Histogram()
    if told is None:
        return found
    used, counts, values, *rest = told
    found.counts[arrays[used]] = arrays[counts]
    total, total_ns, min_ns, max_ns, out_of_range = rest
    pieces = None if values is None else [arrays[values]]
    return Histogram(found.counts, total, total_ns, min_ns, max_ns, out_of_range, pieces)
