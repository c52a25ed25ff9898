"""What chat and completions have in common: the request's frame, usage, errors, the end sign."""

from typing import Any

import orjson

from loadgen.dialects.answer import Answer, Ask, count, short_text, words_of_error


def frame(ask: Ask) -> dict[str, Any]:
    """The request's JSON but for the prompt."""
    fields: dict[str, Any] = {
        "model": ask.model,
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
    answer.cumulative_tokens = None
    usage = chunk.get("usage")
    if usage:
        _take_usage(usage, answer)
    choices = chunk.get("choices")
    if not choices:
        if chunk.get("error"):
            answer.error_words = words_of_error(payload)
        return None
    choice: dict[str, Any] = choices[0]
    if choice.get("finish_reason"):
        answer.finish_reason = short_text(choice["finish_reason"])
        if chunk.get("error"):  # OpenRouter-like gateways send both
            answer.error_words = words_of_error(payload)
    return choice


def _take_usage(usage: dict[str, Any], answer: Answer) -> None:
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
