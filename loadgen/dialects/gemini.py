"""Gemini's streamGenerateContent with alt=sse; `vertex` is the same of Vertex AI, with a bearer token.

Usage stands in every event and is that of all so far; the output's count is candidates and thoughts together. A thought
is a part with `thought`; a call of a tool comes whole. A refusal is an answer without candidates and with a block
reason. Old versions say STOP in each event: only the end of the response proves that it was the last.
"""

from dataclasses import replace
from typing import Any, Final

import orjson

from loadgen.dialects.answer import CONTENT, NOTHING, REASONING, TOOL, Answer, Ask, count, short_text, words_of_error
from loadgen.dialects.conversation import calls_of, data_of, functions_of, messages_of, parts_of, system_of, text_of
from loadgen.dialects.dialect import Dialect, Listing, Varying

MODEL: Final = "(?P<model>[^/:]+):streamGenerateContent$"


def write(ask: Ask) -> dict[str, Any]:
    """The request's JSON."""
    system, messages = system_of(messages_of(ask))
    body: dict[str, Any] = {"contents": [_content(message) for message in messages]}
    if system:
        body["systemInstruction"] = {"parts": [{"text": system}]}
    if ask.tools:
        body["tools"] = [{"functionDeclarations": functions_of(ask.tools)}]
    return body | {"generationConfig": {"maxOutputTokens": ask.output_tokens, "temperature": 0}}


def _content(message: dict[str, Any]) -> dict[str, Any]:
    if message.get("role") == "tool":
        name = str(message.get("name") or message.get("tool_call_id") or "")
        response = {"name": name, "response": {"result": text_of(message)}}
        return {"role": "user", "parts": [{"functionResponse": response}]}
    parts: list[dict[str, Any]] = []
    for part in parts_of(message):
        if part.kind == "text":
            parts.append({"text": part.value})
        elif (data := data_of(part.value)) is not None:
            parts.append({"inlineData": {"mimeType": data[0], "data": data[1]}})
        else:
            parts.append({"fileData": {"fileUri": part.value}})
    parts += [{"functionCall": {"name": call.name, "args": call.values}} for call in calls_of(message)]
    return {"role": "model" if message.get("role") == "assistant" else "user", "parts": parts}


def text(payload: bytes) -> str:
    """What a content event said, its thoughts left out."""
    parts = orjson.loads(payload)["candidates"][0]["content"]["parts"]
    return "".join(part.get("text") or "" for part in parts if not part.get("thought"))


def read(payload: bytes, answer: Answer) -> int:
    """What one event carried."""
    event = orjson.loads(payload)
    answer.cumulative_tokens = None
    if event.get("error"):
        answer.error_words = words_of_error(payload)
        return NOTHING
    if answer.response_id is None:
        answer.response_id = short_text(event.get("responseId"))
    if usage := event.get("usageMetadata"):
        _take_usage(usage, answer)
    if blocked := (event.get("promptFeedback") or {}).get("blockReason"):
        answer.error_words = words_of_error(orjson.dumps({"error": f"the prompt was blocked: {blocked}"}))
        return NOTHING
    candidates = event.get("candidates")
    if not candidates:
        return NOTHING
    if reason := candidates[0].get("finishReason"):
        answer.finish_reason = short_text(reason)
    parts = (candidates[0].get("content") or {}).get("parts") or ()
    kinds = {_kind(part) for part in parts}
    return next((kind for kind in (CONTENT, TOOL, REASONING) if kind in kinds), NOTHING)


def _kind(part: dict[str, Any]) -> int:
    if part.get("functionCall"):
        return TOOL
    if not part.get("text"):
        return NOTHING
    return REASONING if part.get("thought") else CONTENT


def _take_usage(usage: dict[str, Any], answer: Answer) -> None:
    said, thought = count(usage.get("candidatesTokenCount")), count(usage.get("thoughtsTokenCount"))
    if said is not None or thought is not None:
        answer.output_tokens = answer.cumulative_tokens = count((said or 0) + (thought or 0))
    if thought is not None:
        answer.reasoning_tokens = thought
    if (prompt_tokens := count(usage.get("promptTokenCount"))) is not None:
        answer.prompt_tokens = prompt_tokens
    if (cached_tokens := count(usage.get("cachedContentTokenCount"))) is not None:
        answer.cached_tokens = cached_tokens


def _names(listed: Any) -> list[str]:
    return [
        str(row["name"]).removeprefix("models/")
        for row in listed["models"]
        if "generateContent" in (row.get("supportedGenerationMethods") or ("generateContent",))
    ]


DIALECT: Final = Dialect(
    name="gemini",
    route="/v1beta/models/{model}:streamGenerateContent",
    whole=f"/models/{MODEL}",
    home=r"^generativelanguage\.googleapis\.com(/v1beta|/v1)?$",
    query="alt=sse",
    write=write,
    read=read,
    text=text,
    texts=("text",),
    varying=Varying(numbers=("totalTokenCount",), so_far="candidatesTokenCount"),
    auth=("x-goog-api-key", "{key}"),
    key_variables=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    takes=frozenset({"images", "tools", "messages"}),
    max_tokens_field="generationConfig.maxOutputTokens",
    listing=Listing("/v1beta/models", _names),
)

VERTEX: Final = replace(
    DIALECT,
    name="vertex",
    whole=f"/publishers/[^/]+/models/{MODEL}",
    home="",
    auth=("Authorization", "Bearer {key}"),
    key_variables=("CLOUDSDK_AUTH_ACCESS_TOKEN",),
    listing=None,
)
