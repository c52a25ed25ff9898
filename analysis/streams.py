"""A capture's file: an Arrow stream, read batch by batch up to where it stops making sense.

The file of a worker that was killed, or is still at work, may end at any byte: what is whole is read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc

from analysis.rows import MAY_MISS
from loadgen.schema import CAPTURE_SCHEMA, CaptureError


def read_batches(path: Path, columns: tuple[str, ...], first: int = 0) -> Iterator[Any]:
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
