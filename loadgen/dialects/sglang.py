"""SGLang's own /generate.

Text and ids are those of the whole answer so far in every event, or, where the server was started to stream increments,
of this event alone; `completion_tokens` counts all so far in either case. A slow reader gets the newest state alone, so
an event may bring any number of tokens: their number is the difference of the counts.
"""

from typing import Any, Final

import orjson

from loadgen.dialects.answer import CONTENT, NOTHING, Answer, Ask, count, short_text, words_of_error
from loadgen.dialects.conversation import plain_text
from loadgen.dialects.dialect import Dialect, Listing, Varying, names_of_data


def write(ask: Ask) -> dict[str, Any]:
    """The request's JSON."""
    sampling: dict[str, Any] = {"max_new_tokens": ask.output_tokens, "temperature": 0}
    if ask.ignore_eos:
        sampling["ignore_eos"] = True
    prompt: dict[str, Any] = {"input_ids": list(ask.token_ids)} if ask.token_ids else {"text": plain_text(ask)}
    return {**prompt, "sampling_params": sampling, "stream": True}


def text(payload: bytes) -> str:
    """What an event said, or all that was said up to it."""
    said: str = orjson.loads(payload)["text"]
    return said


def read(payload: bytes, answer: Answer) -> int:
    """What one event carried."""
    if payload == b"[DONE]":
        answer.end_seen = True
        return NOTHING
    event = orjson.loads(payload)
    answer.cumulative_tokens = None
    if error := event.get("error"):
        answer.error_words = words_of_error(orjson.dumps({"error": error}))
        return NOTHING
    meta = event["meta_info"]
    _take_meta(meta, answer)
    said = event.get("text") or ""
    before, answer.text_before = answer.text_before, said
    answer.undecided = not before
    answer.is_cumulative = _is_cumulative(event.get("output_ids"), said, before, answer)
    is_new = said != before if answer.is_cumulative else True
    return CONTENT if said and is_new else NOTHING


def _take_meta(meta: dict[str, Any], answer: Answer) -> None:
    if answer.response_id is None:
        answer.response_id = short_text(meta.get("id"))
    if (so_far := count(meta.get("completion_tokens"))) is not None:
        answer.output_tokens = answer.cumulative_tokens = so_far
    for name in ("prompt_tokens", "cached_tokens", "reasoning_tokens"):
        if (tokens := count(meta.get(name))) is not None:
            setattr(answer, name, tokens)
    if reason := meta.get("finish_reason"):
        kind = reason.get("type") if isinstance(reason, dict) else reason
        answer.finish_reason = short_text(kind)
        if kind == "abort":
            answer.error_words = words_of_error(orjson.dumps({"error": reason.get("message") or "aborted"}))


def _is_cumulative(ids: object, said: str, before: str, answer: Answer) -> bool:
    """Whether the text is all of the answer so far; of a first event both are true."""
    if isinstance(ids, list) and ids and answer.cumulative_tokens is not None:
        return len(ids) == answer.cumulative_tokens
    return said.startswith(before.rstrip("\ufffd")) and (answer.is_cumulative or not before)


DIALECT: Final = Dialect(
    name="sglang",
    route="/generate",
    write=write,
    read=read,
    text=text,
    texts=("text",),
    varying=Varying(
        numbers=("reasoning_tokens", "e2e_latency", "decode_throughput"),
        lists=("output_ids",),
        so_far="completion_tokens",
    ),
    takes=frozenset({"ignore_eos", "token_ids", "messages"}),
    max_tokens_field="sampling_params.max_new_tokens",
    listing=Listing("/v1/models", names_of_data),
    needs_model=False,
)
