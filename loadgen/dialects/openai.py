"""What OpenAI's chat and completions have in common: the request's frame, usage, errors, the end sign."""

from typing import Any, Final

import orjson

from loadgen.dialects.answer import Answer, Ask, count, short_text, words_of_error
from loadgen.dialects.dialect import Listing, Varying, names_of_data

MODELS: Final = Listing("/models", names_of_data)

# `obfuscation` is OpenAI's own padding; the counts are there with continuous usage. llama.cpp counts in `timings`.
VARYING: Final = Varying(strings=("obfuscation",), numbers=("total_tokens",), so_far="completion_tokens")


def frame(ask: Ask, *, names_model: bool = True) -> dict[str, Any]:
    """The request's JSON but for the prompt."""
    fields: dict[str, Any] = {"model": ask.model} if names_model else {}
    fields |= {
        "max_tokens": ask.output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if ask.ignore_eos:
        fields["ignore_eos"] = True
    return fields


def choice_of(payload: bytes, answer: Answer) -> dict[str, Any] | None:
    """The event's first choice, or None; id, usage, finish reason, error and end sign go into `answer`.

    ValueError, TypeError, KeyError, IndexError or AttributeError if the payload is no chunk.
    """
    if payload == b"[DONE]":
        answer.end_seen = True
        return None
    chunk = orjson.loads(payload)
    if answer.response_id is None:
        answer.response_id = short_text(chunk.get("id"))
    so_far, answer.cumulative_tokens = answer.cumulative_tokens, None
    usage = chunk.get("usage")
    if usage:
        take_usage(usage, answer)
    choices = chunk.get("choices")
    if not choices:
        if chunk.get("error"):
            answer.error_words = words_of_error(payload)
        return None
    choice: dict[str, Any] = choices[0]
    if answer.cumulative_tokens is None:
        _take_counts(chunk, choice, so_far, answer)
    if choice.get("finish_reason"):
        answer.finish_reason = short_text(choice["finish_reason"])
        if chunk.get("error"):  # OpenRouter-like gateways send both
            answer.error_words = words_of_error(payload)
    return choice


def take_usage(usage: dict[str, Any], answer: Answer) -> None:
    """The last usage with whole numbers wins: some servers send one in every chunk, with nulls in the middle."""
    output_tokens = count(usage.get("completion_tokens"))
    if output_tokens is None:
        return
    answer.output_tokens = answer.cumulative_tokens = output_tokens
    answer.prompt_tokens = count(usage.get("prompt_tokens"))
    answer.cached_tokens = count((usage.get("prompt_tokens_details") or {}).get("cached_tokens"))
    details = usage.get("completion_tokens_details") or {}
    # SGLang counts them at the top level.
    answer.reasoning_tokens = count(details.get("reasoning_tokens", usage.get("reasoning_tokens")))


def _take_counts(chunk: dict[str, Any], choice: dict[str, Any], so_far: int | None, answer: Answer) -> None:
    """Where usage does not say how many tokens there are by now: llama.cpp's timings, vLLM's ids of this chunk's tokens."""
    if timings := chunk.get("timings"):
        answer.cumulative_tokens = count(timings.get("predicted_n"))
    elif token_ids := choice.get("token_ids"):
        answer.cumulative_tokens = (so_far or 0) + len(token_ids)
