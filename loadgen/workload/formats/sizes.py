"""Formats that say how much is asked and answered: pairs of lengths, and traces, which say when as well."""

from loadgen.workload.containers import Record
from loadgen.workload.formats.row import Reading, Row, Turn, field
from loadgen.workload.formats.values import NS_PER_MS, NS_PER_S, Problem, date_ns, seconds_ns, text_of, tokens


def lengths(record: Record, how: Reading) -> Row | None:
    """Pairs of lengths without times."""
    return Row(record.line, (_sized(record, how),))


def timed(record: Record, how: Reading) -> Row | None:
    """Any columns: the unit of the time is seconds, or what its column's name ends in (_ms, _us, _ns)."""
    column = how.columns["timestamp"]
    unit = {"_ms": NS_PER_MS, "_us": 1000, "_ns": 1}.get(column[-3:], NS_PER_S)
    value = field(record, how, "timestamp")
    if unit == 1 and isinstance(value, int | str) and str(value).isdigit():
        at_ns = int(value)
    else:
        at_ns = seconds_ns(value, column, unit) if unit > 1 else seconds_ns(value, column, 1)
    turn = _sized(record, how)
    if "prompt" in how.columns:
        turn = turn._replace(prompt=text_of(field(record, how, "prompt"), how.columns["prompt"]))
    session = field(record, how, "session")
    return Row(record.line, (_answered(turn),), at_ns=at_ns, session=None if session in (None, "") else str(session))


def mooncake(record: Record, how: Reading) -> Row | None:
    """kvcache-ai/Mooncake: timestamp in ms, a hash id for each block of 512 tokens."""
    at_ns = seconds_ns(field(record, how, "timestamp"), "timestamp", NS_PER_MS)
    return _hashed(record, how, at_ns, None, 512)


def bailian(record: Record, how: Reading) -> Row | None:
    """Alibaba's Qwen-Bailian traces: timestamp in s, blocks of 16 tokens; a chat goes on from `parent_chat_id`."""
    at_ns = seconds_ns(field(record, how, "timestamp"), "timestamp")
    parent = record.values.get("parent_chat_id", -1)
    row = _hashed(record, how, at_ns, str(record.values["chat_id"]), 16)
    return row._replace(parent=None if parent in (-1, None) else str(parent))


def azure(record: Record, how: Reading) -> Row | None:
    """Azure's LLM inference traces of 2023 and 2024: TIMESTAMP,ContextTokens,GeneratedTokens."""
    at_ns = date_ns(str(field(record, how, "timestamp")), "TIMESTAMP")
    return Row(record.line, (_answered(_sized(record, how)),), at_ns=at_ns)


def burstgpt(record: Record, how: Reading) -> Row | None:
    """BurstGPT: seconds; a response of no tokens is a failure of theirs, and is left out."""
    at_ns = seconds_ns(field(record, how, "timestamp"), "Timestamp")
    turn = _sized(record, how)
    if not turn.output_tokens:
        return None
    session = field(record, how, "session")
    return Row(record.line, (turn,), at_ns=at_ns, session=session if session not in (None, "") else None)


def _sized(record: Record, how: Reading) -> Turn:
    named = how.columns.get
    input_tokens = tokens(field(record, how, "input_tokens"), named("input_tokens", "input_tokens"))
    output_tokens = tokens(field(record, how, "output_tokens"), named("output_tokens", "output_tokens"))
    return Turn(input_tokens=None if input_tokens is None else max(input_tokens, 1), output_tokens=output_tokens)


def _answered(turn: Turn) -> Turn:
    return turn._replace(output_tokens=max(turn.output_tokens, 1) if turn.output_tokens is not None else None)


def _hashed(record: Record, how: Reading, at_ns: int, session: str | None, block_tokens: int) -> Row:
    ids = field(record, how, "hash_ids") or ()
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
