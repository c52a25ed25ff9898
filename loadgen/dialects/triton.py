"""Triton's generate_stream with the TensorRT-LLM backend.

There are no counts, no finish reason and no end sign: the stream ends with the response. Whether an event holds its own
text or all of it so far is a setting of the model (`accumulate_tokens`), and told by the texts themselves: once GROWN
of them in a row begin with the one before and go on, it is all of it.
"""

from typing import Any, Final

import orjson

from loadgen.dialects.answer import CONTENT, NOTHING, Answer, Ask, words_of_error
from loadgen.dialects.conversation import plain_text
from loadgen.dialects.dialect import Dialect, Listing, Varying

GROWN: Final = 3
NEVER: Final = -(1 << 62)

# Beyond every vocabulary: the end that never comes.
NO_TOKEN: Final = 1 << 20


def write(ask: Ask) -> dict[str, Any]:
    """The request's JSON."""
    body: dict[str, Any] = {
        "text_input": plain_text(ask), "max_tokens": ask.output_tokens, "temperature": 0, "stream": True,
    }  # fmt: skip
    if ask.ignore_eos:
        body |= {"min_length": ask.output_tokens, "end_id": NO_TOKEN}
    return body


def text(payload: bytes) -> str:
    """What an event said, or all that was said up to it."""
    said: str = orjson.loads(payload)["text_output"]
    return said


def read(payload: bytes, answer: Answer) -> int:
    """What one event carried."""
    event = orjson.loads(payload)
    if event.get("error"):
        answer.error_words = words_of_error(payload)
        return NOTHING
    said = event["text_output"]
    before = answer.text_before
    if not said:
        return NOTHING
    answer.text_before = said
    if before and not said.startswith(before.rstrip("\ufffd")):
        answer.is_cumulative, answer.grown = False, NEVER
    elif before and len(said) > len(before):
        answer.grown += 1
        answer.is_cumulative = answer.grown >= GROWN
    answer.undecided = 0 <= answer.grown < GROWN
    return NOTHING if answer.is_cumulative and said == before else CONTENT


def _names(listed: Any) -> list[str]:
    names = [str(row["name"]) for row in listed]
    # A model of the backend has parts of its own; these two are meant to be asked.
    return sorted(names, key=lambda name: name not in ("ensemble", "tensorrt_llm_bls"))


DIALECT: Final = Dialect(
    name="triton",
    route="/v2/models/{model}/generate_stream",
    whole="/v2/models/(?P<model>[^/]+)(/versions/[^/]+)?/generate_stream$",
    write=write,
    read=read,
    text=text,
    texts=("text_output",),
    varying=Varying(numbers=("sequence_index", "cum_log_probs")),
    ends_with_response=True,
    takes=frozenset({"ignore_eos", "messages"}),
    listing=Listing("/v2/repository/index", _names, "POST"),
)
