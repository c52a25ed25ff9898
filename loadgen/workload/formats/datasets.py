"""Formats that say what is asked: conversations, bodies and prompts."""

from collections.abc import Mapping
from typing import Any, Final

from loadgen.workload.containers import Record
from loadgen.workload.formats.row import Reading, Row, Turn, field
from loadgen.workload.formats.values import Problem, short, text_of, tokens

_USER, _ASSISTANT, _SYSTEM = "user", "assistant", "system"
_ROLES: Final = {
    "human": _USER, "user": _USER, "gpt": _ASSISTANT, "assistant": _ASSISTANT, "chatgpt": _ASSISTANT, "bing": _ASSISTANT,
    "bard": _ASSISTANT, "model": _ASSISTANT, "system": _SYSTEM, "developer": _SYSTEM,
}  # fmt: skip

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


def sharegpt(record: Record, how: Reading) -> Row | None:
    """{"conversations": [{"from": "human", "value": ...}]}; some copies write role and content."""
    said: list[tuple[str, str]] = []
    for message in field(record, how, "messages"):
        role = message.get("from", message.get("role"))
        if role not in _ROLES:
            raise Problem(f"a message is from {short(role)}; allowed is {', '.join(_ROLES)}")
        said.append((_ROLES[role], text_of(message.get("value", message.get("content")), "a message")))
    return _conversation(record.line, said, how, "sessions")


def messages(record: Record, how: Reading) -> Row | None:
    """OpenAI: {"messages": [{"role", "content"}], "tools", "max_tokens", ...}; other keys go into the body."""
    own = {column for name, column in how.columns.items() if name in ("messages", "tools", "output_tokens")}
    extra = {
        key: value
        for key, value in record.values.items()
        if key not in own and key not in _NOT_BODY and (value is not None)
    }
    if how.container not in ("jsonl", "array"):
        extra = {}
    return _asked(record, how, field(record, how, "messages"), field(record, how, "tools"), extra)


def batch(record: Record, how: Reading) -> Row | None:
    """The OpenAI batch file: {"custom_id", "method", "url", "body"}."""
    body = record.values["body"]
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    extra = {key: value for key, value in body.items() if key not in _NOT_BODY}
    inner = Record(record.line, {"output_tokens": most})
    if "messages" not in body and isinstance(body.get("prompt"), str):
        turn = Turn(prompt=body["prompt"], output_tokens=tokens(most, "max_tokens"), extra=extra)
        return Row(record.line, (turn._replace(extra={k: v for k, v in extra.items() if k != "prompt"}),))
    columns = {"output_tokens": "output_tokens"}
    how = Reading(how.path, how.format, how.container, columns, how.conversations)
    return _asked(inner, how, body.get("messages"), body.get("tools"), extra)


def prompts(record: Record, how: Reading) -> Row | None:
    """A prompt a record, with the length of its answer, a system prompt and images where there are columns for them."""
    images = field(record, how, "images")
    turn = Turn(
        prompt=text_of(field(record, how, "prompt"), how.columns["prompt"]),
        output_tokens=tokens(field(record, how, "output_tokens"), how.columns.get("output_tokens", "")) or None,
        answer=_optional_text(record, how, "answer"),
        images=tuple(text_of(image, "an image") for image in ([images] if isinstance(images, str) else images or ())),
    )
    return Row(record.line, (turn,), _optional_text(record, how, "system"))


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


def _asked(record: Record, how: Reading, spoken: Any, tools: Any, extra: Mapping[str, Any]) -> Row | None:
    if not isinstance(spoken, list) or not spoken:
        raise Problem("messages is no list of messages")
    for message in spoken:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Problem("a message has no role")
    output_tokens = tokens(field(record, how, "output_tokens"), "output_tokens")
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
            [(_ROLES[message["role"]], text_of(message["content"], "a message")) for message in spoken],
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


def _optional_text(record: Record, how: Reading, name: str) -> str:
    value = field(record, how, name)
    return value if isinstance(value, str) else ""
