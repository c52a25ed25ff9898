"""requests.parquet and tokens.parquet.

Three bytes is what a token may cost. A gap that wanders by 1 ms holds 12 bits at a resolution of 1 us, one without memory
around 30 ms holds 16; and the time of a token and the gap before it are two times the same noise. So the gap alone is
precise: the difference of stamps rounded to 1 us or finer, a fraction of what a stamp is good for. The stamp itself is
the request's first, which costs nothing in rows that share it, plus the gaps up to the token, whose sum has no more than
one rounding in it. What remains of the time, where in the run a token came, is good to some ms.

Gaps and times are split by bytes (BYTE_STREAM_SPLIT) before zstd: the noise fills the low bytes, the high ones are mostly
alike, and each is coded by itself to within a tenth of its entropy. Packed as deltas (DELTA_BINARY_PACKED) gaps would take
half as much again, for one large gap widens the 31 beside it; the columns that count are packed so.
"""

from contextlib import ExitStack
from inspect import signature
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.exports.files import whole
from analysis.exports.requests import REQUESTS, event_numbers, request_batch
from analysis.opened import Opened, Piece, of_window, opened
from analysis.rows import Integers, Mask, Rows

STEP_BITS: Final = 10
"""Stamps in tokens.parquet are rounded to steps of 2**10 = 1,024 ns at most ..."""

GAP_BITS: Final = 11
"""... and of at most 2**-11 of the gap before and of the gap after, so that no gap is more than that off."""

WHERE_MS: Final = 8
"""What the time of a token is rounded to; a power of two, so that it costs some 5 bits, whatever the gaps."""

LARGE_BYTES: Final = 1 << 28
"""A capture of more than this has a file a stage: some 80 million tokens."""

ROW_GROUP: Final = 1 << 20
"""Tokens a row group: DuckDB gives one to a thread, and reads its statistics to skip it. 30 MB while it is gathered."""

NS_PER_MS: Final = 1_000_000

PAGE_BYTES: Final = 1 << 24
"""Pages as large as a row group. Within a page the bytes of one place stand together, and zstd codes 128 KB by one table:
in pages of 20,000 rows, which newer versions of Arrow make by themselves, that would be bytes of several places, and a gap
would cost a tenth more."""

_ROWS_A_PAGE: Final[dict[str, Any]] = (
    {"max_rows_per_page": 2 * ROW_GROUP} if "max_rows_per_page" in signature(pq.ParquetWriter).parameters else {}
)

TOKENS: Final = pa.schema(
    [
        pa.field("request_id", pa.uint64(), nullable=False),
        pa.field("stage", pa.uint16(), nullable=False),
        pa.field("index", pa.uint32(), nullable=False),
        pa.field("t_ms", pa.int64(), nullable=False),
        pa.field("first_token_ns", pa.int64(), nullable=False),
        pa.field("gap_ns", pa.int64()),
        pa.field("tokens", pa.uint16(), nullable=False),
        pa.field("kind", pa.uint8(), nullable=False),
        pa.field("measured", pa.bool_(), nullable=False),
    ]
)

_TOKEN_ENCODINGS: Final = {
    "request_id": "DELTA_BINARY_PACKED",
    "index": "DELTA_BINARY_PACKED",
    "t_ms": "BYTE_STREAM_SPLIT",
    "gap_ns": "BYTE_STREAM_SPLIT",
}
_TOKEN_DICTIONARIES: Final = ("stage", "first_token_ns", "tokens", "kind")
_WORDS: Final = ("error", "finish_reason")


def write(run_dir: Path, out_dir: Path, sample: int) -> list[Path]:
    """Both files; of a large run, tokens/stage-N.parquet in place of the second; of several machines, both partitioned."""
    run = opened(run_dir)
    is_partitioned = bool(run.run.facts.get("nodes"))
    paths = _partitions(run) if is_partitioned else _files(run)
    facts = _facts(run)
    with ExitStack() as stack:
        files: dict[str, _RowGroups] = {}
        for (table, *_), path in paths.items():
            if path not in files:
                part = stack.enter_context(whole(out_dir / path))
                schema = TOKENS if table == "tokens" else REQUESTS
                if is_partitioned:
                    schema = schema.remove(schema.get_field_index("stage"))
                files[path] = stack.enter_context(_RowGroups(part, schema, facts, is_tokens=table == "tokens"))
        for piece in run.pieces():
            files[paths["requests", piece.node, piece.stage]].add(request_batch(run, piece))
            files[paths["tokens", piece.node, piece.stage]].add(token_batch(run, piece))
    return [out_dir / path for path in files]


def _files(run: Opened) -> dict[tuple[str, int, int], str]:
    """The file of each (table, node, stage) of one machine."""
    large = sum(capture.path.stat().st_size for capture in run.run.captures) > LARGE_BYTES
    paths = {}
    for stage in run.windows or (0,):
        paths["requests", 0, stage] = "requests.parquet"
        paths["tokens", 0, stage] = f"tokens/stage-{stage}.parquet" if large and run.windows else "tokens.parquet"
    return paths


def _partitions(run: Opened) -> dict[tuple[str, int, int], str]:
    """Likewise of several: the data set that Hive and all after it know, where node and stage stand in the path alone."""
    return {
        (table, node, stage): f"{table}/node={node}/stage={stage}/part-0.parquet"
        for table in ("requests", "tokens")
        for node in sorted({capture.node for capture in run.run.captures})
        for stage in run.windows
    }


def token_batch(run: Opened, piece: Piece) -> pa.RecordBatch:
    """A row an output event of a piece's requests, as TOKENS."""
    rows, window = piece.rows, run.windows[piece.stage]
    index = event_numbers(rows)
    measured = of_window(window, rows) & rows.completed
    tokens = np.ones(len(index), np.uint16) if rows.event_tokens is None else _told(rows)
    kinds = np.zeros(len(index), np.uint8) if rows.event_kind is None else rows.event_kind.astype(np.uint8)
    request_ids = piece.batch.column("request_id").to_numpy()
    stamps_ns = rounded_stamps(rows.event_ns - run.origin_ns, index == 0)
    arrays = [
        pa.array(np.repeat(request_ids, rows.events), pa.uint64()),
        pa.array(np.full(len(index), piece.stage, np.uint16)),
        pa.array(index.astype(np.uint32)),
        pa.array((stamps_ns + WHERE_MS * NS_PER_MS // 2) // (WHERE_MS * NS_PER_MS) * WHERE_MS),
        pa.array(np.repeat(stamps_ns[index == 0], rows.events[rows.events > 0])),
        pa.array(np.diff(stamps_ns, prepend=0), mask=index == 0),
        pa.array(tokens),
        pa.array(kinds),
        pa.array(np.repeat(measured, rows.events)),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=TOKENS)


def _told(rows: Rows) -> Any:
    assert rows.event_tokens is not None
    return np.where(np.repeat(rows.told_tokens, rows.events), rows.event_tokens, 1).astype(np.uint16)


def rounded_stamps(stamps_ns: Integers, is_first: Mask) -> Integers:
    """Stamps of requests one after the other, whose first ones `is_first` says, each to a step of its own.

    The step is the largest power of two that is at most 1,024 ns and 1/2048 of the gaps on both sides: a rounded stamp is at
    most 512 ns off, the difference of two at most 1/2048 of the gap. Stamps that are the same stay the same.
    """
    if not len(stamps_ns):
        return stamps_ns
    is_moment = is_first | (np.diff(stamps_ns, prepend=stamps_ns[0] - 1) != 0)
    moments_ns = stamps_ns[is_moment]
    before_ns = np.abs(np.diff(moments_ns, prepend=0))
    before_ns[is_first[is_moment]] = 1 << (STEP_BITS + GAP_BITS)  # none, and so no limit
    after_ns = np.append(before_ns[1:], 1 << (STEP_BITS + GAP_BITS))
    _, size = np.frexp(np.minimum(before_ns, after_ns).astype(np.float64))
    shift = np.clip(size.astype(np.int64) - 1 - GAP_BITS, 0, STEP_BITS)
    rounded_ns = ((moments_ns + ((1 << shift) >> 1)) >> shift) << shift
    found: Integers = rounded_ns[np.cumsum(is_moment) - 1]
    return found


class _RowGroups:
    """A Parquet file that gathers batches until they fill a row group."""

    def __init__(self, path: Path, schema: pa.Schema, facts: dict[str, str], *, is_tokens: bool) -> None:
        self._schema = schema.with_metadata(facts)
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            compression_level=9,
            data_page_size=PAGE_BYTES,
            **_ROWS_A_PAGE,
            use_dictionary=[name for name in (_TOKEN_DICTIONARIES if is_tokens else _WORDS) if name in schema.names],
            column_encoding=_TOKEN_ENCODINGS
            if is_tokens
            else {
                field.name: "DELTA_BINARY_PACKED"
                for field in schema
                if pa.types.is_integer(field.type) and _packs(field)
            },
        )
        self._gathered: list[pa.RecordBatch] = []
        self._rows = 0

    def __enter__(self) -> "_RowGroups":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._put()
        finally:
            self._writer.close()

    def add(self, batch: pa.RecordBatch) -> None:
        self._gathered.append(batch.select(self._schema.names))
        self._rows += batch.num_rows
        if self._rows >= ROW_GROUP:
            self._put()

    def _put(self) -> None:
        gathered, self._gathered, self._rows = self._gathered, [], 0
        if gathered:
            table = pa.Table.from_batches(gathered).replace_schema_metadata(self._schema.metadata)
            self._writer.write_table(table, row_group_size=ROW_GROUP)


def _packs(field: pa.Field) -> bool:
    return bool(
        field.type.bit_width >= 32
    )  # narrower ones are stored as 32 bits, and not all writers pack unsigned ones


def _facts(run: Opened) -> dict[str, str]:
    return {
        "loadgen": str(run.run.facts["loadgen"]),
        "run_id": str(run.run.facts["run_id"]),
        "start_monotonic_ns": str(run.origin_ns),
        "start_unix_ns": str(run.origin_ns + run.realtime_offset_ns),
    }
