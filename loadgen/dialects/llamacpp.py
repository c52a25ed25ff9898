"""llama.cpp's own /completion; its OpenAI routes are spoken by chat and completions.

Each event counts the tokens so far; the last has `stop` and the counts of the whole, and the stream ends with the response.
"""

from typing import Any, Final

import orjson

from loadgen.dialects.answer import CONTENT, NOTHING, Answer, Ask, count, short_text, words_of_error
from loadgen.dialects.conversation import plain_text
from loadgen.dialects.dialect import Dialect, Listing, Varying, names_of_data


def write(ask: Ask) -> dict[str, Any]:
    """The request's JSON."""
    prompt: Any = list(ask.token_ids) if ask.token_ids else plain_text(ask)
    body = {"prompt": prompt, "n_predict": ask.output_tokens, "temperature": 0, "stream": True, "cache_prompt": False}
    return body | ({"ignore_eos": True} if ask.ignore_eos else {})


def text(payload: bytes) -> str:
    """What a content event said."""
    said: str = orjson.loads(payload)["content"]
    return said


def read(payload: bytes, answer: Answer) -> int:
    """What one event carried."""
    if payload == b"[DONE]":
        return NOTHING
    event = orjson.loads(payload)
    answer.cumulative_tokens = None
    if event.get("error"):
        answer.error_words = words_of_error(payload)
        return NOTHING
    so_far = count(event.get("tokens_predicted"))
    if so_far is None:
        so_far = count((event.get("timings") or {}).get("predicted_n"))
    if so_far is not None:
        answer.output_tokens = answer.cumulative_tokens = so_far
    if event["stop"]:
        answer.end_seen = True
        answer.finish_reason = short_text(event.get("stop_type")) or "stop"
        answer.prompt_tokens = count(event.get("tokens_evaluated"))
        answer.cached_tokens = count((event.get("timings") or {}).get("cache_n"))
    return CONTENT if event.get("content") else NOTHING


DIALECT: Final = Dialect(
    name="llamacpp",
    route="/completion",
    write=write,
    read=read,
    text=text,
    texts=("content",),
    varying=Varying(lists=("tokens",), so_far="tokens_predicted"),
    takes=frozenset({"ignore_eos", "token_ids", "messages"}),
    max_tokens_field="n_predict",
    listing=Listing("/v1/models", names_of_data),
    needs_model=False,
)
