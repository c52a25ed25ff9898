"""What the records of a file mean: data sets (who says what) and traces (who came when, and asked how much for how much).

A format makes a Row of a record; formats are recognised by the keys of the first record. Sources: the files themselves and
their papers, listed in docs/workloads.md.
"""

import datetime
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from loadgen.errors import UsageError
from loadgen.workload import containers
from loadgen.workload.containers import BadLine, OnBad, Record, raise_it

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000

MOST_TOKENS: Final = (1 << 31) - 1


class Turn(NamedTuple):
    """One request of a row: what is said, or how long it is to be."""

    prompt: str | None = None
    """None: to be made up, of `input_tokens` tokens."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    answer: str = ""
    """What was answered when it was recorded."""
    messages: tuple[dict[str, Any], ...] = ()
    """A whole conversation to be sent as it is, in place of the prompt."""
    images: tuple[str, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    extra: Mapping[str, Any] = {}


class Row(NamedTuple):
    """One unit of a file: a request, or a conversation of several turns."""

    line: int
    turns: tuple[Turn, ...]
    system: str = ""
    at_ns: int | None = None
    """When it came, on the file's own clock."""
    session: str | None = None
    """Rows of one session come one after the other, however long each takes."""
    parent: str | None = None
    """The session that this one goes on from, where each row has an id of its own."""
    hash_ids: tuple[int, ...] = ()
    """The prompt in blocks of `block_tokens`: equal ids stand for equal text."""
    block_tokens: int = 0
    target: str | None = None
    """Of a run of ours that had several: the name of what it went to."""


CONVERSATIONS: Final = ("auto", "sessions", "first", "last")
"""What becomes of a conversation: a session with all its turns, its first turn alone, or one request with all of it."""

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


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is to be read."""

    path: str
    format: str
    container: str
    columns: Mapping[str, str]
    """Field -> column, for every field that the file has."""
    conversations: str = "auto"

    @property
    def has_times(self) -> bool:
        """Whether its rows say when they came."""
        return self.format in TRACES


class Problem(ValueError):
    """What is wrong with a record; becomes a BadLine."""


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


# --- values ---


def _tokens(value: Any, what: str) -> int | None:
    """A count of tokens; None for none. A CSV has it as text."""
    if value is None or value == "":
        return None
    try:
        number = int(value) if not isinstance(value, float) else round(value)
    except (ValueError, TypeError, OverflowError):
        raise Problem(f"{what} is {_short(value)}, which is no number of tokens") from None
    if isinstance(value, bool) or not 0 <= number <= MOST_TOKENS:
        raise Problem(f"{what} is {_short(value)}; allowed are whole numbers from 0")
    return number


def _seconds(value: Any, what: str, ns_per_unit: int = NS_PER_S) -> int:
    """A point in time in ns: a number, or a date with a time."""
    try:
        number = float(value)
    except ValueError:
        return _date_ns(str(value), what)
    except TypeError:
        raise Problem(f"{what} is {_short(value)}, which is no time") from None
    if isinstance(value, bool) or not abs(number) < 9e9:
        raise Problem(f"{what} is {_short(value)}, which is no time")
    return int(number) * ns_per_unit + round((number - int(number)) * ns_per_unit)


_DATE: Final = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?\s*(Z|[+-]\d\d:?\d\d)?")
_dates: dict[str, int] = {}


def _date_ns(text: str, what: str) -> int:
    found = _DATE.fullmatch(text.strip())
    if found is None:
        raise Problem(f"{what} is {_short(text)}, which is no time")
    whole, fraction, zone = found.groups()
    key = whole + (zone or "")
    if (seconds := _dates.get(key)) is None:
        try:
            date = datetime.datetime.fromisoformat(whole + (zone or "+00:00"))
        except ValueError:
            raise Problem(f"{what} is {_short(text)}, which is no time") from None
        if len(_dates) > 4096:
            _dates.clear()
        seconds = _dates[key] = round(date.timestamp())
    return seconds * NS_PER_S + int((fraction or "0").ljust(9, "0"))


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise Problem(f"{what} is {_short(value)}, which is no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Problem(f"{what} holds half a character") from None
    return value


def _short(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:60]}..."


def _field(record: Record, how: Reading, name: str) -> Any:
    column = how.columns.get(name)
    return None if column is None else record.values.get(column)


# --- data sets ---

_USER, _ASSISTANT, _SYSTEM = "user", "assistant", "system"
_ROLES: Final = {
    "human": _USER, "user": _USER, "gpt": _ASSISTANT, "assistant": _ASSISTANT, "chatgpt": _ASSISTANT, "bing": _ASSISTANT,
    "bard": _ASSISTANT, "model": _ASSISTANT, "system": _SYSTEM, "developer": _SYSTEM,
}  # fmt: skip


def _sharegpt(record: Record, how: Reading) -> Row | None:
    """{"conversations": [{"from": "human", "value": ...}]}; some copies write role and content."""
    said: list[tuple[str, str]] = []
    for message in _field(record, how, "messages"):
        role = message.get("from", message.get("role"))
        if role not in _ROLES:
            raise Problem(f"a message is from {_short(role)}; allowed is {', '.join(_ROLES)}")
        said.append((_ROLES[role], _text(message.get("value", message.get("content")), "a message")))
    return _conversation(record.line, said, how, "sessions")


def _conversation(line: int, said: list[tuple[str, str]], how: Reading, default: str) -> Row | None:
    """What is said by role -> a row; None where no user says anything."""
    system = "\n\n".join(text for role, text in said if role == _SYSTEM)
    turns: list[Turn] = []
    for role, text in said:
        if role == _USER:
            if turns and not turns[-1].answer:  # said in two goes
                turns[-1] = turns[-1]._replace(prompt=f"{turns[-1].prompt}\n\n{text}")
            else:
                turns.append(Turn(prompt=text))
        elif role == _ASSISTANT and turns:
            turns[-1] = turns[-1]._replace(answer=f"{turns[-1].answer}\n\n{text}" if turns[-1].answer else text)
    if not turns:
        return None
    wanted = default if how.conversations == "auto" else how.conversations
    if wanted == "first":
        turns = turns[:1]
    elif wanted == "last" and len(turns) > 1:
        messages = [{"role": role, "content": text} for role, text in said]
        while messages[-1]["role"] != _USER:
            messages.pop()
        return Row(line, (Turn(messages=tuple(messages), answer=turns[-1].answer),))
    return Row(line, tuple(turns), system)


def _messages(record: Record, how: Reading) -> Row | None:
    """OpenAI: {"messages": [{"role", "content"}], "tools", "max_tokens", ...}; other keys go into the body."""
    own = {column for field, column in how.columns.items() if field in ("messages", "tools", "output_tokens")}
    extra = {
        key: value
        for key, value in record.values.items()
        if key not in own and key not in _NOT_BODY and (value is not None)
    }
    if how.container not in ("jsonl", "array"):
        extra = {}
    return _asked(record, how, _field(record, how, "messages"), _field(record, how, "tools"), extra)


# Of a line that is no body, or what a run sets itself.
_NOT_BODY: Final = frozenset(
    [
        "id",
        "uuid",
        "source",
        "model",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "messages",
        "tools",
        "user",
        "metadata",
        "dataset",
        "category",
        "language",
        "score",
        "custom_id",
        "conversation_id",
    ]
)


def _asked(record: Record, how: Reading, spoken: Any, tools: Any, extra: Mapping[str, Any]) -> Row | None:
    if not isinstance(spoken, list) or not spoken:
        raise Problem("messages is no list of messages")
    for message in spoken:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Problem("a message has no role")
    output_tokens = _tokens(_field(record, how, "output_tokens"), "output_tokens")
    is_plain = all(
        isinstance(message.get("content"), str) and _ROLES.get(message["role"]) and len(message) == 2
        for message in spoken
    )
    if how.conversations in ("sessions", "first"):
        if not is_plain or tools:
            raise Problem(
                "a conversation with tools or parts cannot be cut into turns; allowed is --conversations last"
            )
        row = _conversation(
            record.line,
            [(_ROLES[message["role"]], _text(message["content"], "a message")) for message in spoken],
            how,
            how.conversations,
        )
        if row is None:
            return None
        turns = tuple(
            turn._replace(output_tokens=turn.output_tokens or output_tokens, extra=extra) for turn in row.turns
        )
        return row._replace(turns=turns)
    messages, answer = list(spoken), ""
    if len(messages) > 1 and messages[-1]["role"] == _ASSISTANT:  # the answer that was recorded
        content = messages.pop().get("content")
        answer = content if isinstance(content, str) else ""
    turn = Turn(
        messages=tuple(messages),
        tools=tuple(tools or ()),
        output_tokens=output_tokens,
        answer=answer,
        extra=extra,
    )
    return Row(record.line, (turn,))


def _batch(record: Record, how: Reading) -> Row | None:
    """The OpenAI batch file: {"custom_id", "method", "url", "body"}."""
    body = record.values["body"]
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    extra = {key: value for key, value in body.items() if key not in _NOT_BODY}
    inner = Record(record.line, {"output_tokens": most})
    if "messages" not in body and isinstance(body.get("prompt"), str):
        turn = Turn(prompt=body["prompt"], output_tokens=_tokens(most, "max_tokens"), extra=extra)
        return Row(record.line, (turn._replace(extra={k: v for k, v in extra.items() if k != "prompt"}),))
    columns = {"output_tokens": "output_tokens"}
    how = Reading(how.path, how.format, how.container, columns, how.conversations)
    return _asked(inner, how, body.get("messages"), body.get("tools"), extra)


def _prompts(record: Record, how: Reading) -> Row | None:
    """A prompt a record, with the length of its answer, a system prompt and images where there are columns for them."""
    images = _field(record, how, "images")
    turn = Turn(
        prompt=_text(_field(record, how, "prompt"), how.columns["prompt"]),
        output_tokens=_tokens(_field(record, how, "output_tokens"), how.columns.get("output_tokens", "")) or None,
        answer=_optional_text(record, how, "answer"),
        images=tuple(_text(image, "an image") for image in ([images] if isinstance(images, str) else images or ())),
    )
    return Row(record.line, (turn,), _optional_text(record, how, "system"))


def _optional_text(record: Record, how: Reading, name: str) -> str:
    value = _field(record, how, name)
    return value if isinstance(value, str) else ""


# --- lengths and traces ---


def _lengths(record: Record, how: Reading) -> Row | None:
    """Pairs of lengths without times."""
    return Row(record.line, (_sized(record, how),))


def _sized(record: Record, how: Reading) -> Turn:
    named = how.columns.get
    input_tokens = _tokens(_field(record, how, "input_tokens"), named("input_tokens", "input_tokens"))
    output_tokens = _tokens(_field(record, how, "output_tokens"), named("output_tokens", "output_tokens"))
    return Turn(input_tokens=None if input_tokens is None else max(input_tokens, 1), output_tokens=output_tokens)


def _timed(record: Record, how: Reading) -> Row | None:
    """Any columns: the unit of the time is seconds, or what its column's name ends in (_ms, _us, _ns)."""
    column = how.columns["timestamp"]
    unit = {"_ms": NS_PER_MS, "_us": 1000, "_ns": 1}.get(column[-3:], NS_PER_S)
    value = _field(record, how, "timestamp")
    if unit == 1 and isinstance(value, int | str) and str(value).isdigit():
        at_ns = int(value)
    else:
        at_ns = _seconds(value, column, unit) if unit > 1 else _seconds(value, column, 1)
    turn = _sized(record, how)
    if "prompt" in how.columns:
        turn = turn._replace(prompt=_text(_field(record, how, "prompt"), how.columns["prompt"]))
    session = _field(record, how, "session")
    return Row(record.line, (_answered(turn),), at_ns=at_ns, session=None if session in (None, "") else str(session))


def _answered(turn: Turn) -> Turn:
    return turn._replace(output_tokens=max(turn.output_tokens, 1) if turn.output_tokens is not None else None)


def _mooncake(record: Record, how: Reading) -> Row | None:
    """kvcache-ai/Mooncake: timestamp in ms, a hash id for each block of 512 tokens."""
    at_ns = _seconds(_field(record, how, "timestamp"), "timestamp", NS_PER_MS)
    return _hashed(record, how, at_ns, None, 512)


def _bailian(record: Record, how: Reading) -> Row | None:
    """Alibaba's Qwen-Bailian traces: timestamp in s, blocks of 16 tokens; a chat goes on from `parent_chat_id`."""
    at_ns = _seconds(_field(record, how, "timestamp"), "timestamp")
    parent = record.values.get("parent_chat_id", -1)
    row = _hashed(record, how, at_ns, str(record.values["chat_id"]), 16)
    return row._replace(parent=None if parent in (-1, None) else str(parent))


def _hashed(record: Record, how: Reading, at_ns: int, session: str | None, block_tokens: int) -> Row:
    ids = _field(record, how, "hash_ids") or ()
    if not all(type(one) is int for one in ids):
        raise Problem("hash_ids is no list of whole numbers")
    return Row(
        record.line,
        (_answered(_sized(record, how)),),
        at_ns=at_ns,
        session=session,
        hash_ids=tuple(ids),
        block_tokens=block_tokens,
    )


def _azure(record: Record, how: Reading) -> Row | None:
    """Azure's LLM inference traces of 2023 and 2024: TIMESTAMP,ContextTokens,GeneratedTokens."""
    at_ns = _date_ns(str(_field(record, how, "timestamp")), "TIMESTAMP")
    return Row(record.line, (_answered(_sized(record, how)),), at_ns=at_ns)


def _burstgpt(record: Record, how: Reading) -> Row | None:
    """BurstGPT: seconds; a response of no tokens is a failure of theirs, and is left out."""
    at_ns = _seconds(_field(record, how, "timestamp"), "Timestamp")
    turn = _sized(record, how)
    if not turn.output_tokens:
        return None
    session = _field(record, how, "session")
    return Row(record.line, (turn,), at_ns=at_ns, session=session if session not in (None, "") else None)


_MAKERS: Final[dict[str, Callable[[Record, Reading], Row | None]]] = {
    "sharegpt": _sharegpt,
    "messages": _messages,
    "batch": _batch,
    "prompts": _prompts,
    "text": _prompts,
    "lengths": _lengths,
    "timed": _timed,
    "mooncake": _mooncake,
    "bailian": _bailian,
    "azure": _azure,
    "burstgpt": _burstgpt,
}

FORMATS: Final = (*_MAKERS, "capture")
TRACES: Final = frozenset({"timed", "mooncake", "bailian", "azure", "burstgpt", "capture"})

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
