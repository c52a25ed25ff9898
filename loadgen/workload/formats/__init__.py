"""What the records of a file mean: data sets (who says what) and traces (who came when, and asked how much for how much).

A format makes a Row of a record; formats are recognised by the keys of the first record. Sources: the files themselves and
their papers, listed in docs/workloads.md.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from loadgen.errors import UsageError
from loadgen.workload import containers
from loadgen.workload.containers import BadLine, OnBad, Record, raise_it
from loadgen.workload.formats import datasets, sizes
from loadgen.workload.formats.row import Reading, Row
from loadgen.workload.formats.values import Problem

FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "prompt": ("prompt", "question", "instruction", "text", "text_input", "query", "input"),
    "output_tokens": ("output_tokens", "output_length", "max_tokens", "max_completion_tokens", "expected_output_len"),
    "input_tokens": ("input_tokens", "input_length", "prompt_tokens", "prompt_len"),
    "system": ("system", "system_prompt"),
    "answer": ("answer", "completion", "response", "output", "expected_output"),
    "messages": ("messages", "conversation", "conversations"),
    "images": ("images", "image"),
    "tools": ("tools",),
    "timestamp": ("timestamp", "time", "arrival_time", "TIMESTAMP", "Timestamp"),
    "session": ("session_id", "session", "chat_id", "Session ID"),
    "hash_ids": ("hash_ids",),
}
"""What a row can be read from, and the column names that are tried; --columns names others."""

_MAKERS: Final[dict[str, Callable[[Record, Reading], Row | None]]] = {
    "sharegpt": datasets.sharegpt,
    "messages": datasets.messages,
    "batch": datasets.batch,
    "prompts": datasets.prompts,
    "text": datasets.prompts,
    "lengths": sizes.lengths,
    "timed": sizes.timed,
    "mooncake": sizes.mooncake,
    "bailian": sizes.bailian,
    "azure": sizes.azure,
    "burstgpt": sizes.burstgpt,
}

FORMATS: Final = (*_MAKERS, "capture")

_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "sharegpt": ("messages",),
    "messages": ("messages",),
    "batch": (),
    "prompts": ("prompt",),
    "lengths": ("input_tokens",),
    "timed": ("timestamp",),
    "mooncake": ("timestamp", "input_tokens", "output_tokens"),
    "bailian": ("timestamp", "input_tokens", "output_tokens"),
    "azure": ("timestamp", "input_tokens", "output_tokens"),
    "burstgpt": ("timestamp", "input_tokens", "output_tokens"),
}

_OWN: Final[dict[str, dict[str, str]]] = {
    "azure": {"timestamp": "TIMESTAMP", "input_tokens": "ContextTokens", "output_tokens": "GeneratedTokens"},
    "burstgpt": {"timestamp": "Timestamp", "input_tokens": "Request tokens", "output_tokens": "Response tokens"},
    "mooncake": {"timestamp": "timestamp", "input_tokens": "input_length", "output_tokens": "output_length"},
    "bailian": {"timestamp": "timestamp", "input_tokens": "input_length", "output_tokens": "output_length"},
}
"""Columns of a format that have the names they have."""


def named(written: str) -> tuple[str, str | None]:
    """FILE[:FORMAT] -> the file, and the format where there is one. UsageError where only the format is not known."""
    path, colon, format_ = written.rpartition(":")
    if not colon or Path(written).exists():
        return written, None
    if format_ in FORMATS:
        return path, format_
    if Path(path).exists():
        raise UsageError(f"{path}: {format_!r} is no format; allowed is {', '.join(FORMATS)}")
    return written, None


def reading(path: str, format_: str | None, columns: Mapping[str, str], conversations: str = "auto") -> Reading:
    """Look at a file's beginning. UsageError if it cannot be read, is of no known format, or lacks a column."""
    if format_ == "capture" or (format_ is None and Path(path, "run.json").is_file()):
        if not Path(path, "capture").is_dir():
            raise UsageError(f"{path} is no run: there is no capture in it")
        return Reading(path, "capture", "capture", {}, conversations)
    if Path(path).is_dir():
        raise UsageError(f"{path} is a directory and no run; allowed is a file, or what `loadgen run` wrote")
    container = containers.container_of(path)
    if format_ == "text":
        container = "text"
    first = next(containers.records(path, container), None)
    if first is None:
        raise UsageError(f"{path} holds no records")
    name = format_ or _recognised(path, container, first.values, columns)
    unit = "row" if container == "parquet" else "line"
    if name == "text":
        return Reading(path, name, container, {"prompt": "prompt"}, conversations)
    there = first.values.keys()
    found: dict[str, str] = {}
    for field, column in columns.items():
        if column not in there:
            raise BadLine(path, first.line, f"there is no column {column!r}; there are {_listed(there)}", unit)
        found[field] = column
    for field, names in FIELDS.items():
        if field not in found:
            found.update((field, name) for name in names[::-1] if name in there)
    found = found | {field: column for field, column in _OWN.get(name, {}).items() if field not in columns}
    for field in _NEEDS[name]:
        if found.get(field) not in there:
            named = _OWN.get(name, {}).get(field) or " or ".join(FIELDS[field][:3])
            raise BadLine(
                path,
                first.line,
                f"{name} has a column {named}, and there is none; there are {_listed(there)} (--columns {field}=NAME)",
                unit,
            )
    return Reading(path, name, container, found, conversations)


def rows(how: Reading, on_bad: OnBad = raise_it) -> Iterator[Row]:
    """Every row of a file, in its order. BadLine goes to `on_bad`."""
    if how.format == "capture":
        from loadgen.workload.replay import capture_rows

        yield from capture_rows(how.path)
        return
    make = _MAKERS[how.format]
    unit = "row" if how.container == "parquet" else "line"
    for record in containers.records(how.path, how.container, on_bad):
        try:
            row = make(record, how)
        except Problem as problem:
            on_bad(BadLine(how.path, record.line, str(problem), unit))
            continue
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            words = f"there is no {error}" if isinstance(error, KeyError) else "a value is of an unexpected kind"
            on_bad(BadLine(how.path, record.line, words, unit))
            continue
        if row is not None:
            yield row


def last_time_ns(how: Reading) -> int | None:
    """When the last row of a trace came, without reading all of it; None where only that would tell."""
    if how.format == "capture":
        return None
    record = containers.last_record(how.path, how.container)
    if record is None:
        return None
    try:
        row = _MAKERS[how.format](record, how)
    except (Problem, KeyError, TypeError, AttributeError, IndexError):
        return None
    return None if row is None else row.at_ns


def _recognised(path: str, container: str, values: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    keys = values.keys()
    if container == "text":
        return "text"
    if {"hash_ids", "chat_id"} <= keys:
        return "bailian"
    if {"timestamp", "input_length", "output_length"} <= keys:
        return "mooncake"
    if {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= keys:
        return "azure"
    if {"Timestamp", "Request tokens", "Response tokens"} <= keys:
        return "burstgpt"
    if "body" in keys and isinstance(values["body"], dict):
        return "batch"
    spoken = values.get(columns.get("messages") or next((name for name in FIELDS["messages"] if name in keys), ""))
    if isinstance(spoken, list) and spoken and isinstance(spoken[0], dict):
        return "sharegpt" if "value" in spoken[0] or container == "array" else "messages"
    if columns.get("prompt") or any(name in keys for name in FIELDS["prompt"]):
        return "prompts"
    if columns.get("timestamp") or any(name in keys for name in FIELDS["timestamp"]):
        return "timed"
    if columns.get("input_tokens") or any(name in keys for name in FIELDS["input_tokens"]):
        return "lengths"
    raise UsageError(
        f"{path}: this is no format that is known, its columns are {_listed(keys)}; name the prompt's with "
        f"--columns prompt=NAME, or the format behind the file, as in {path}:text ({', '.join(FORMATS)})"
    )


def _listed(names: Any) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:12]) + (", ..." if len(shown) > 12 else "") if shown else "none"
