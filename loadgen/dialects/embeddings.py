"""OpenAI embeddings: no stream. The whole response is one event, and so the latency to it is that of the response."""

from collections.abc import Sequence
from typing import Any, Final

import orjson

from loadgen.dialects.answer import CONTENT, NOTHING, Answer, Ask, count, words_of_error
from loadgen.dialects.conversation import plain_text
from loadgen.dialects.dialect import Dialect
from loadgen.dialects.openai import MODELS


def write(ask: Ask) -> dict[str, Any]:
    """The request's JSON."""
    if ask.inputs == 1:
        return {"model": ask.model, "input": list(ask.token_ids) if ask.token_ids else plain_text(ask)}
    pieces: Sequence[str] | tuple[int, ...] = ask.token_ids or ask.prompt.split(" ")
    size = -(-len(pieces) // ask.inputs)
    parts = [pieces[i : i + size] for i in range(0, len(pieces), size)]
    return {"model": ask.model, "input": [list(part) if ask.token_ids else " ".join(map(str, part)) for part in parts]}


def text(_payload: bytes) -> str:
    """Vectors say nothing."""
    return ""


def read(payload: bytes, answer: Answer) -> int:
    """CONTENT for an answer with vectors."""
    body = orjson.loads(payload)
    if body.get("error"):
        answer.error_words = words_of_error(payload)
        return NOTHING
    vectors = body["data"]
    answer.end_seen = True
    answer.output_tokens = 0  # or the event would count as one
    answer.prompt_tokens = count((body.get("usage") or {}).get("prompt_tokens"))
    return CONTENT if vectors and all(row["embedding"] for row in vectors) else NOTHING


DIALECT: Final = Dialect(
    name="embeddings",
    route="/embeddings",
    root="/v1",
    framing="json",
    write=write,
    read=read,
    text=text,
    takes=frozenset({"token_ids", "inputs"}),
    listing=MODELS,
)
