"""Files of records: JSON lines, a JSON array, CSV, Parquet, text; gzip and zstd around them. Streamed, never held whole.

A record is a dict with the line (of a Parquet file the row) that it begins in. What cannot be read is a BadLine.
"""

import csv
import gzip
import io
import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, BinaryIO, Final, NamedTuple

import orjson

from loadgen.errors import UsageError

MOST_LINE_BYTES: Final = 64 * 1024 * 1024
"""Of a line or an element: ten times the longest prompt there is, in a language of three bytes a character."""

READ_BYTES: Final = 1 << 20

# Of a column, as in "Request tokens".
MOST_NAME: Final = 60
MOST_NAME_WORDS: Final = 3
_SHOWN: Final = 120

CONTAINERS: Final = ("jsonl", "array", "csv", "parquet", "text")

_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"


class BadLine(UsageError):
    """A line that cannot be used; says which, and why."""

    def __init__(self, path: str, line: int, words: str, unit: str = "line") -> None:
        super().__init__(f"{path}: {unit} {line}: {words}")


class Record(NamedTuple):
    """One record of a file, and where it begins."""

    line: int
    values: dict[str, Any]


OnBad = Callable[[BadLine], None]
"""What to do with a bad line: raise it, or count it and go on."""


def raise_it(bad: BadLine) -> None:
    """The default: the first bad line ends the reading."""
    raise bad


def open_file(path: str) -> BinaryIO:
    """The file's bytes, unpacked. UsageError if it cannot be opened."""
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
        if magic.startswith(_GZIP):
            return gzip.open(path, "rb")  # type: ignore[return-value]
        if magic == _ZSTD:
            import pyarrow as pa

            return io.BufferedReader(pa.input_stream(path, compression="zstd"), READ_BYTES)
        return open(path, "rb", buffering=READ_BYTES)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None


def is_packed(path: str) -> bool:
    """Whether the file is gzip or zstd, so that its end cannot be looked at first."""
    with open(path, "rb") as file:
        magic = file.read(4)
    return magic.startswith(_GZIP) or magic == _ZSTD


def container_of(path: str) -> str:
    """What the file is, by its first bytes. UsageError if it is empty or cannot be opened."""
    with open_file(path) as file:
        start = _read(file, path, 1 << 16)
    if start.startswith(_PARQUET):
        return "parquet"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        raise UsageError(f"{path} is empty")
    if text.startswith(b"["):
        return "array"
    if text.startswith(b"{"):
        return "jsonl"
    return "csv" if _has_heading(text) else "text"


def _has_heading(text: bytes) -> bool:
    """Whether the first line names columns: short names, as many as the next line has cells. Prose has commas, too."""
    try:
        first, *next_ = islice(csv.reader(io.StringIO(text[: 1 << 14].decode("utf-8", "replace"))), 2)
    except csv.Error:
        return False
    names = [cell.strip() for cell in first]
    are_short = all(len(name) <= MOST_NAME and len(name.split()) <= MOST_NAME_WORDS for name in names)
    return len(names) > 1 and all(names) and are_short and all(len(cells) == len(names) for cells in next_)


def records(path: str, container: str, on_bad: OnBad = raise_it) -> Iterator[Record]:
    """Every record of a file. BadLine goes to `on_bad`; UsageError if the file as such cannot be read."""
    try:
        yield from _READERS[container](path, on_bad)
    except (OSError, EOFError) as error:  # EOFError: gzip data that is cut
        words = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{path} cannot be read to its end ({words})") from None


def _read(file: BinaryIO, path: str, size: int) -> bytes:
    try:
        return file.read(size)
    except (OSError, EOFError) as error:
        raise UsageError(f"{path} cannot be read ({error})") from None


def lines(path: str) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line without its break). BadLine for one without an end in sight."""
    with open_file(path) as file:
        number = 0
        while line := file.readline(MOST_LINE_BYTES + 1):
            number += 1
            if len(line) > MOST_LINE_BYTES:
                raise BadLine(path, number, f"it is longer than {MOST_LINE_BYTES >> 20} MB")
            yield number, (line[3:] if number == 1 and line.startswith(b"\xef\xbb\xbf") else line).rstrip(b"\r\n")


def _json_lines(path: str, on_bad: OnBad) -> Iterator[Record]:
    for number, line in lines(path):
        if not line or line.isspace():
            continue
        if (values := _object(path, number, line, on_bad)) is not None:
            yield Record(number, values)


def _object(path: str, number: int, text: bytes, on_bad: OnBad) -> dict[str, Any] | None:
    try:
        values = orjson.loads(text)
    except ValueError as error:
        on_bad(BadLine(path, number, f"this is no JSON ({_shown(str(error))})"))
        return None
    if not isinstance(values, dict):
        on_bad(BadLine(path, number, "this is no JSON object; allowed is {...} a line"))
        return None
    return values


def _array(path: str, on_bad: OnBad) -> Iterator[Record]:
    with open_file(path) as file:
        for number, text in elements(file, path):
            if (values := _object(path, number, text, on_bad)) is not None:
                yield Record(number, values)


# Outside a string whatever opens, closes or separates; inside one everything up to its end.
_MARK: Final = re.compile(rb'["{}\[\],]')
_STRING: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)


def elements(file: BinaryIO, path: str) -> Iterator[tuple[int, bytes]]:
    """(line, text) of each element of the JSON array that a file holds; memory by the element. BadLine if it is none.

    The text is cut at the right commas and brackets and not looked into: whether it is JSON is asked behind this.
    """
    buffer, at, line = b"", 0, 1
    begun = False  # the array
    start = 0  # of the element
    depth = 0
    in_string = False

    def refilled() -> bool:
        nonlocal buffer, at, start
        more = _read(file, path, max(READ_BYTES, len(buffer) - start))  # grows with the element: linear in all
        buffer, at, start = buffer[start:] + more, at - start, 0
        if len(buffer) > 2 * MOST_LINE_BYTES:
            raise BadLine(path, line, f"an element is longer than {MOST_LINE_BYTES >> 20} MB")
        return bool(more)

    def here() -> int:
        rest = buffer[start:]
        return line + rest[: len(rest) - len(rest.lstrip())].count(b"\n")

    while True:
        if in_string:
            found = _STRING.match(buffer, at)
            assert found is not None  # it matches nothing at all, too
            if found.end() >= len(buffer) or buffer[found.end()] != 0x22:
                if not refilled():
                    raise BadLine(path, here(), "the file ends within a string")
                continue
            at, in_string = found.end() + 1, False
        mark = _MARK.search(buffer, at)
        if mark is None:
            at = len(buffer)
            if not refilled():
                raise BadLine(path, here(), "the file ends before its array does")
            continue
        what = buffer[mark.start()]
        at = mark.end()
        if what == 0x22:
            in_string = True
        elif what in b"[{":
            if not begun:
                begun = True
                line += buffer[start:at].count(b"\n")
                start = at
            else:
                depth += 1
        elif what == 0x2C and depth:
            continue
        elif what in b"]}" and depth:
            depth -= 1
        else:  # a comma or the bracket of the array itself
            text = buffer[start : mark.start()]
            stripped = text.lstrip()
            if stripped.rstrip():
                yield line + text[: len(text) - len(stripped)].count(b"\n"), stripped.rstrip()
            elif what == 0x2C:
                raise BadLine(path, line, "there is nothing before a comma")
            line += buffer[start:at].count(b"\n")
            start = at
            if what != 0x2C:
                return


def _csv(path: str, on_bad: OnBad) -> Iterator[Record]:
    csv.field_size_limit(MOST_LINE_BYTES)
    with io.TextIOWrapper(open_file(path), encoding="utf-8-sig", errors="replace", newline="") as text:
        reader = csv.reader(text)
        names: list[str] | None = None
        line = 1
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                on_bad(BadLine(path, line, f"this is no CSV ({error})"))
                line = reader.line_num + 1
                continue
            if cells is None:
                return
            if names is None:
                names = [cell.strip() for cell in cells]
            elif len(cells) == len(names):
                yield Record(line, dict(zip(names, cells, strict=True)))
            elif cells:
                on_bad(BadLine(path, line, f"it has {len(cells)} columns, and the heading {len(names)}"))
            line = reader.line_num + 1


def _parquet(path: str, on_bad: OnBad) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        row = 0
        for batch in file.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                row += 1
                yield Record(row, values)
    except pa.ArrowException as error:
        raise UsageError(f"{path} is no Parquet file that can be read ({_shown(str(error))})") from None


def _text(path: str, on_bad: OnBad) -> Iterator[Record]:
    for number, line in lines(path):
        if not line or line.isspace():
            continue
        try:
            yield Record(number, {"prompt": line.decode()})
        except UnicodeDecodeError:
            on_bad(BadLine(path, number, "this is no UTF-8"))


_READERS: Final[dict[str, Callable[[str, OnBad], Iterator[Record]]]] = {
    "jsonl": _json_lines,
    "array": _array,
    "csv": _csv,
    "parquet": _parquet,
    "text": _text,
}


def last_record(path: str, container: str) -> Record | None:
    """The last record of a file of lines that is not packed; None where that cannot be told without reading all of it."""
    if container not in ("jsonl", "csv") or is_packed(path):
        return None
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - (1 << 18), 0))
        tail = [line for line in file.read().splitlines() if line.strip()]
        file.seek(0)
        head = file.readline().decode("utf-8-sig", "replace")
    if len(tail) < 2:
        return None
    if container == "jsonl":
        try:
            values = orjson.loads(tail[-1])
        except ValueError:
            return None
        return Record(0, values) if isinstance(values, dict) else None
    names = [cell.strip() for cell in next(csv.reader([head]))]
    cells = next(csv.reader([tail[-1].decode("utf-8", "replace")]))
    return Record(0, dict(zip(names, cells, strict=True))) if len(cells) == len(names) else None


def _shown(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}..."
