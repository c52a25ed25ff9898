"""Lengths out of a file: one column of numbers, or pairs of input and output that are drawn together."""

from collections.abc import Mapping

from loadgen.distribution import Distribution, Empirical, FromFile, uniform
from loadgen.workload.containers import BadLine, container_of, records
from loadgen.workload.formats import FIELDS
from loadgen.workload.formats.values import Problem, tokens

MOST_VALUES = 10_000_000
"""Eight bytes each while the run lasts."""


def resolved(lengths: Distribution | FromFile, side: str, columns: Mapping[str, str]) -> Distribution | Empirical:
    """The distribution itself; that of a file is read. UsageError with file and line if it cannot be."""
    if isinstance(lengths, Distribution):
        return lengths
    return Empirical.of(_column(lengths.path, side, columns))


def pairs(path: str, columns: Mapping[str, str]) -> list[tuple[int, int]]:
    """(input, output) tokens of every line. UsageError with file and line if one is no pair."""
    inputs, outputs = (_column(path, side, columns) for side in ("input_tokens", "output_tokens"))
    if len(inputs) != len(outputs):
        raise BadLine(path, 1, f"there are {len(inputs)} input lengths and {len(outputs)} output lengths")
    return list(zip(inputs, outputs, strict=True))


def drawn_pair(values: list[tuple[int, int]], seed: int, stream: int, number: int) -> tuple[int, int]:
    """The pair of request `number`."""
    return values[int(uniform(seed, stream, number) * len(values))]


def _column(path: str, side: str, columns: Mapping[str, str]) -> list[int]:
    container = container_of(path)
    values: list[int] = []
    at = ["input_tokens", "output_tokens"].index(side)
    for record in records(path, container):
        if container == "text":
            raw, line = record.values["prompt"].split(",")[0].split()[0], record.line
            if line == 1 and not raw.isdigit():  # a heading
                continue
        else:
            names = [columns[side]] if side in columns else [*FIELDS[side], _SPOKEN[side]]
            found = [name for name in names if name in record.values]
            keys = list(record.values)
            # Two columns without names that say what they are: input and output, in this order.
            column = found[0] if found else keys[min(at, len(keys) - 1)] if len(keys) <= 2 else None
            if column is None or column not in record.values:
                raise BadLine(path, record.line, f"there is no column for {side}; name it with --columns {side}=NAME")
            raw, line = record.values[column], record.line
            if container == "csv" and not values and line <= 2:
                values += _heading_number(column)
        try:
            value = tokens(raw, side)
        except Problem as problem:
            raise BadLine(path, line, str(problem)) from None
        if not value:
            raise BadLine(path, line, f"{side} is {raw!r}; allowed are whole numbers from 1")
        values.append(value)
        if len(values) > MOST_VALUES:
            raise BadLine(path, line, f"there are more than {MOST_VALUES} lengths")
    if not values:
        raise BadLine(path, 1, "there are no lengths in it")
    return values


def _heading_number(name: str) -> list[int]:
    """A file without a heading has its first numbers in the place of one."""
    return [int(name)] if name.isdigit() and int(name) else []


_SPOKEN = {"input_tokens": "input", "output_tokens": "output"}
