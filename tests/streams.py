"""What each API sends, byte by byte, and what it means: written from the vendors' documents, not from the dialects.

`spoken(api, texts)` is a whole stream that says these texts, an event each; a Case is a stream and what it means (cases.py).
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

C, R, T = 0, 1, 2
"""content, reasoning, tool: the capture's kinds."""

SSE, NDJSON, JSON = "text/event-stream", "application/x-ndjson", "application/json"

PROMPT_TOKENS = 9


def event(payload: object, name: str = "", ascii_only: bool = False) -> bytes:
    """A server-sent event."""
    data = payload if isinstance(payload, str) else dumped(payload, ascii_only)
    return f"event: {name}\ndata: {data}\n\n".encode() if name else f"data: {data}\n\n".encode()


def dumped(payload: object, ascii_only: bool = False) -> str:
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=ascii_only)


Speak = Callable[[list[str], bool], list[bytes]]

USAGE = {"prompt_tokens": PROMPT_TOKENS, "prompt_tokens_details": {"cached_tokens": 4}}


def chat_chunk(delta: object, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **fields}


def speak_chat(texts: list[str], ascii_only: bool) -> list[bytes]:
    return [
        event(chat_chunk({"role": "assistant", "content": ""})),
        *(event(chat_chunk({"content": text}), ascii_only=ascii_only) for text in texts),
        event(chat_chunk({}, "length")),
        event({"id": "c1", "choices": [], "usage": USAGE | {"completion_tokens": len(texts)}}),
        event("[DONE]"),
    ]


def speak_continuous(texts: list[str], ascii_only: bool) -> list[bytes]:
    def usage(n: int) -> dict[str, Any]:
        return {"usage": {"prompt_tokens": 9, "total_tokens": 9 + n, "completion_tokens": n}}

    return [
        event(chat_chunk({"role": "assistant", "content": ""}, **usage(0))),
        *(event(chat_chunk({"content": text}, **usage(i)), ascii_only=ascii_only) for i, text in enumerate(texts, 1)),
        event(chat_chunk({}, "length", **usage(len(texts)))),
        event("[DONE]"),
    ]


def speak_obfuscated(texts: list[str], ascii_only: bool) -> list[bytes]:
    """As OpenAI itself pads its events."""
    padding = itertools.cycle(["a", "Zq3", "0xF00", "pad8"])
    return [
        *(
            event(chat_chunk({"content": text}, usage=None, obfuscation=next(padding)), ascii_only=ascii_only)
            for text in texts
        ),
        event(chat_chunk({}, "length", usage=None, obfuscation=next(padding))),
        event({"id": "c1", "choices": [], "usage": USAGE | {"completion_tokens": len(texts)}}),
        event("[DONE]"),
    ]


def speak_completions(texts: list[str], ascii_only: bool) -> list[bytes]:
    def chunk(text: str, finish: str | None = None) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return event({"id": "x", "object": "text_completion", "choices": [choice]}, ascii_only=ascii_only)

    usage = event({"id": "x", "choices": [], "usage": USAGE | {"completion_tokens": len(texts)}})
    return [*map(chunk, texts), chunk("", "length"), usage, event("[DONE]")]


def typed(number: int, kind: str, ascii_only: bool = False, **fields: Any) -> bytes:
    """An event of the responses API."""
    return event({"type": kind, "sequence_number": number, **fields}, kind, ascii_only)


def speak_responses(texts: list[str], ascii_only: bool) -> list[bytes]:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    response = {"id": "resp_1", "object": "response", "status": "in_progress", "output": []}
    whole = "".join(texts)
    usage = {
        "input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": len(texts),
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 9 + len(texts),
    }  # fmt: skip
    return [
        typed(0, "response.created", response=response),
        typed(1, "response.in_progress", response=response),
        typed(2, "response.output_item.added", output_index=0, item={"id": "msg_1", "type": "message"}),
        typed(3, "response.content_part.added", **place, part={"type": "output_text", "text": ""}),
        *(
            typed(i, "response.output_text.delta", ascii_only, **place, delta=text, logprobs=[], obfuscation="x" * (i % 9))
            for i, text in enumerate(texts, 4)
        ),
        typed(900, "response.output_text.done", **place, text=whole),
        typed(901, "response.output_item.done", output_index=0, item={"content": [{"text": whole}]}),
        typed(
            902,
            "response.completed",
            response=response | {"status": "completed", "incomplete_details": None, "usage": usage},
        ),
    ]  # fmt: skip


def speak_messages(texts: list[str], ascii_only: bool) -> list[bytes]:
    usage = {"input_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2, "output_tokens": 1}
    start = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": usage}

    def named(kind: str, **fields: Any) -> bytes:
        return event({"type": kind, **fields}, kind, ascii_only)

    return [
        named("message_start", message=start),
        named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        named("ping"),
        *(named("content_block_delta", index=0, delta={"type": "text_delta", "text": text}) for text in texts),
        named("content_block_stop", index=0),
        named(
            "message_delta",
            delta={"stop_reason": "max_tokens", "stop_sequence": None},
            usage={"output_tokens": len(texts)},
        ),
        named("message_stop"),
    ]


def sglang_event(text: str, ids: list[int], n: int, finish: object = None) -> dict[str, Any]:
    meta = {
        "id": "r1", "finish_reason": finish, "prompt_tokens": 9, "weight_version": "default",
        "completion_tokens": n, "cached_tokens": 4, "num_retractions": 0,
    }  # fmt: skip
    return {"text": text, "output_ids": ids, "meta_info": meta}


LENGTH = {"type": "length", "length": 128}


def speak_sglang(texts: list[str], ascii_only: bool) -> list[bytes]:
    n = len(texts)
    ids = [100 + i for i in range(n)]
    so_far = list(itertools.accumulate(texts))
    return [
        *(event(sglang_event(so_far[i], ids[: i + 1], i + 1), ascii_only=ascii_only) for i in range(n)),
        event(sglang_event(so_far[-1] if so_far else "", ids, n, LENGTH), ascii_only=ascii_only),
        event("[DONE]"),
    ]


def speak_increments(texts: list[str], ascii_only: bool) -> list[bytes]:
    return [
        *(event(sglang_event(text, [7], i), ascii_only=ascii_only) for i, text in enumerate(texts, 1)),
        event(sglang_event("", [], len(texts), LENGTH)),
        event("[DONE]"),
    ]


def tgi_event(i: int, text: str, special: bool = False, **last: Any) -> dict[str, Any]:
    token = {"id": 90 + i, "text": text, "logprob": -0.5 / (i + 1), "special": special}
    return {"index": i, "token": token, "generated_text": None, "details": None, **last}


def speak_tgi(texts: list[str], ascii_only: bool) -> list[bytes]:
    """Without a space behind `data:`."""
    details = {"finish_reason": "length", "generated_tokens": len(texts) + 1, "prefill": [{"id": i} for i in range(9)]}
    end = tgi_event(len(texts) + 1, "</s>", special=True, generated_text="".join(texts), details=details)
    events = [tgi_event(i, text) for i, text in enumerate(texts, 1)] + [end]
    return [b"data:" + dumped(one, ascii_only).encode() + b"\n\n" for one in events]


def triton_event(text: str) -> dict[str, Any]:
    return {
        "model_name": "ensemble", "model_version": "1", "sequence_end": False, "sequence_id": 0, "sequence_start": False,
        "text_output": text,
    }  # fmt: skip


def speak_triton(texts: list[str], ascii_only: bool) -> list[bytes]:
    return [*(event(triton_event(text), ascii_only=ascii_only) for text in texts), event(triton_event(""))]


def speak_accumulated(texts: list[str], ascii_only: bool) -> list[bytes]:
    return [event(triton_event(text), ascii_only=ascii_only) for text in itertools.accumulate(texts)]


def ollama_line(i: int, ascii_only: bool = False, **fields: Any) -> bytes:
    stamped = {"model": "m", "created_at": f"2026-01-01T00:00:{i % 60:02}.{i:06}Z", **fields}
    return dumped(stamped, ascii_only).encode() + b"\n"


def speak_ollama(texts: list[str], ascii_only: bool) -> list[bytes]:
    def message(text: str) -> dict[str, str]:
        return {"role": "assistant", "content": text}

    end = {"done_reason": "length", "total_duration": 5, "prompt_eval_count": 9, "eval_count": len(texts)}
    return [
        *(ollama_line(i, ascii_only, message=message(text), done=False) for i, text in enumerate(texts)),
        ollama_line(999, message=message(""), done=True, **end),
    ]


def speak_ollama_generate(texts: list[str], ascii_only: bool) -> list[bytes]:
    end = {"done_reason": "length", "context": [1, 2], "prompt_eval_count": 9, "eval_count": len(texts)}
    return [
        *(ollama_line(i, ascii_only, response=text, done=False) for i, text in enumerate(texts)),
        ollama_line(999, response="", done=True, **end),
    ]


def speak_llamacpp(texts: list[str], ascii_only: bool) -> list[bytes]:
    def one(text: str, n: int, **fields: Any) -> bytes:
        so_far = {
            "tokens": [n] if text else [],
            "stop": False,
            "id_slot": 0,
            "tokens_predicted": n,
            "tokens_evaluated": 9,
        }
        return event({"index": 0, "content": text, **so_far, **fields}, ascii_only=ascii_only)

    end = {"stop": True, "stop_type": "limit", "timings": {"cache_n": 4, "prompt_n": 5, "predicted_n": len(texts)}}
    return [*(one(text, i) for i, text in enumerate(texts, 1)), one("", len(texts), **end)]


def gemini_event(parts: list[dict[str, Any]] | None, n: int, finish: str | None = None, **usage: int) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": 0}
    if parts is not None:
        candidate["content"] = {"parts": parts, "role": "model"}
    if finish is not None:
        candidate["finishReason"] = finish
    counts = {
        "promptTokenCount": 9, "candidatesTokenCount": n, "totalTokenCount": 9 + n, "cachedContentTokenCount": 4, **usage,
    }  # fmt: skip
    return {"candidates": [candidate], "usageMetadata": counts, "modelVersion": "g", "responseId": "g1"}


def speak_gemini(texts: list[str], ascii_only: bool) -> list[bytes]:
    """With the CRLF of the real thing, and a last event without parts."""
    events = [gemini_event([{"text": text}], i) for i, text in enumerate(texts, 1)]
    events.append(gemini_event(None, len(texts), "MAX_TOKENS"))
    return [event(one, ascii_only=ascii_only).replace(b"\n", b"\r\n") for one in events]


SPEAK: dict[str, Speak] = {
    "chat": speak_chat,
    "chat, continuous usage": speak_continuous,
    "chat, obfuscated": speak_obfuscated,
    "completions": speak_completions,
    "responses": speak_responses,
    "azure": speak_chat,
    "messages": speak_messages,
    "databricks": speak_chat,
    "sglang": speak_sglang,
    "sglang, increments": speak_increments,
    "tgi": speak_tgi,
    "triton": speak_triton,
    "triton, accumulated": speak_accumulated,
    "ollama": speak_ollama,
    "ollama-generate": speak_ollama_generate,
    "llamacpp": speak_llamacpp,
    "gemini": speak_gemini,
}
"""By the API, and behind a comma the way in which the server speaks it."""


def api_of(way: str) -> str:
    """The dialect of a key of SPEAK."""
    return way.partition(",")[0]


def spoken(way: str, texts: list[str], *, ascii_only: bool = False) -> bytes:
    """A whole stream that says these texts."""
    return b"".join(SPEAK[way](texts, ascii_only))


def sse(*payloads: object) -> bytes:
    """A stream of server-sent events."""
    return b"".join(map(event, payloads))


def lines(*payloads: object) -> bytes:
    """A stream of lines of JSON."""
    return b"".join(dumped(one).encode() + b"\n" for one in payloads)


def named(*payloads: dict[str, Any]) -> bytes:
    """A stream of events that are called what their type says."""
    return b"".join(event(one, one["type"]) for one in payloads)


def block(delta: dict[str, Any]) -> dict[str, Any]:
    """A piece of a message, as the messages API sends it."""
    return {"type": "content_block_delta", "index": 0, "delta": delta}


DONE = "[DONE]"

MESSAGE_START = {"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 9, "output_tokens": 1}}}


@dataclass(frozen=True)
class Case:
    """A response, and what has to be made of it."""

    api: str
    body: bytes
    kinds: tuple[int, ...] = ()
    text: str = ""
    counts: tuple[int | None, int | None, int | None, int | None] = (None, None, None, None)
    """prompt, output, reasoning, cached."""
    finish: str | None = None
    error: str | None = None
    words: str = ""
    status: int = 200
    content_type: str = SSE
    tokens: tuple[int, ...] | None = None
    """In each event, where the server says."""


def with_crlf(body: bytes) -> bytes:
    """The same events with the other line end."""
    return body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def with_keep_alives(case: Case) -> bytes:
    """The same events with what servers send to keep a connection alive: comments, or empty lines."""
    if case.content_type == JSON:
        return b"\n " + case.body
    if case.content_type == NDJSON:
        return b"\n" + case.body.replace(b"\n", b"\n\n")
    end = b"\r\n\r\n" if b"\r\n" in case.body else b"\n\n"
    return b": hello" + end + case.body.replace(end, end + b": ping" + end)
