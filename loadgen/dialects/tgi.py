"""Hugging Face TGI's own generate_stream: one event a token, the end told by `generated_text`.

The text of a special token is none that a user sees: such an event is no output; `generated_tokens` counts it. The stream
ends with the response.
"""

from typing import Any, Final

import orjson

from loadgen.dialects.answer import CONTENT, NOTHING, Answer, Ask, count, short_text, words_of_error
from loadgen.dialects.conversation import plain_text
from loadgen.dialects.dialect import Dialect, Listing, Varying


def write(ask: Ask) -> dict[str, Any]:
    """The request's JSON."""
    parameters = {"max_new_tokens": ask.output_tokens, "details": True, "do_sample": False}
    return {"inputs": plain_text(ask), "parameters": parameters, "stream": True}


def text(payload: bytes) -> str:
    """What a content event said."""
    said: str = orjson.loads(payload)["token"]["text"]
    return said


def read(payload: bytes, answer: Answer) -> int:
    """What one event carried."""
    event = orjson.loads(payload)
    if event.get("error"):
        answer.error_words = words_of_error(payload)
        return NOTHING
    token = event["token"]
    if event.get("generated_text") is not None:
        answer.end_seen = True
        details = event.get("details") or {}
        answer.finish_reason = short_text(details.get("finish_reason"))
        answer.output_tokens = count(details.get("generated_tokens"))
        if prefill := details.get("prefill"):
            answer.prompt_tokens = len(prefill)
    return CONTENT if token.get("text") and not token.get("special") else NOTHING


def _names(listed: Any) -> list[str]:
    return [str(listed["model_id"])]


DIALECT: Final = Dialect(
    name="tgi",
    route="/generate_stream",
    write=write,
    read=read,
    text=text,
    texts=("text",),
    varying=Varying(numbers=("index", "id", "logprob")),
    takes=frozenset({"messages"}),
    max_tokens_field="parameters.max_new_tokens",
    listing=Listing("/info", _names),
    needs_model=False,
)
