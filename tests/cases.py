"""Streams that are special, in each API's own bytes, and what each of them means."""

from typing import Any

from error_cases import ERRORS
from streams import (
    DONE,
    JSON,
    MESSAGE_START,
    NDJSON,
    SPEAK,
    SSE,
    C,
    Case,
    R,
    T,
    api_of,
    block,
    chat_chunk,
    dumped,
    gemini_event,
    lines,
    named,
    sglang_event,
    spoken,
    sse,
)

TEXTS = ["Hel", "lo ", "Wörld", ' "q" \\', "\n", "!"]
SAID = "".join(TEXTS)


def _normal(way: str) -> Case:
    api = api_of(way)
    n = len(TEXTS)
    counts: dict[str, tuple[int | None, int | None, int | None, int | None]] = {
        "chat, continuous usage": (9, n, None, None),
        "responses": (9, n, 0, 4),
        "messages": (9, n, None, 4),
        "tgi": (9, n + 1, None, None),
        "triton": (None, None, None, None),
        "triton, accumulated": (None, None, None, None),
        "ollama": (9, n, None, None),
        "ollama-generate": (9, n, None, None),
    }
    finish = {
        "messages": "max_tokens",
        "triton": None,
        "gemini": "MAX_TOKENS",
        "responses": "completed",
        "llamacpp": "limit",
    }
    says_tokens = way in ("chat, continuous usage", "sglang", "sglang, increments", "llamacpp", "gemini")
    return Case(
        api,
        spoken(way, TEXTS),
        kinds=(C,) * n,
        text=SAID,
        counts=counts.get(way, (9, n, None, 4)),
        finish=finish.get(api, "length"),
        content_type=NDJSON if api.startswith("ollama") else SSE,
        tokens=(1,) * n if says_tokens else None,
    )


END = chat_chunk({}, "stop")

FILTERED = {
    "id": "", "object": "", "created": 0, "model": "", "choices": [],
    "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}],
}  # fmt: skip
NO_DELTA = {"id": "", "choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {"start_offset": 1}}]}


def _message_end(reason: str, n: int) -> list[dict[str, Any]]:
    return [
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": n}},
        {"type": "message_stop"},
    ]


def _completed(**fields: Any) -> dict[str, Any]:
    return {"type": "response.completed", "response": {"id": "resp_1", "status": "completed", **fields}}


CASES: dict[str, Case] = {
    **{f"{way}: normal": _normal(way) for way in SPEAK},
    # reasoning
    "chat: reasoning": Case(
        "chat",
        sse(
            chat_chunk({"role": "assistant", "content": "", "reasoning_content": None}),
            chat_chunk({"reasoning_content": "hm"}),
            chat_chunk({"content": None, "reasoning": "so"}),
            chat_chunk({"content": "yes"}),
            END,
            {
                "choices": [],
                "usage": {
                    "prompt_tokens": 9,
                    "completion_tokens": 7,
                    "completion_tokens_details": {"reasoning_tokens": 5},
                },
            },
            DONE,
        ),
        kinds=(R, R, C),
        text="yes",
        counts=(9, 7, 5, None),
        finish="stop",
    ),
    "databricks: reasoning": Case(
        "databricks",
        sse(
            chat_chunk(
                {
                    "content": [
                        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm", "signature": ""}]}
                    ]
                },
                usage={"prompt_tokens": 9, "completion_tokens": None, "total_tokens": None},
            ),
            chat_chunk({"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": ""}]}]}),
            chat_chunk({"content": [{"type": "text", "text": "ye"}]}),
            chat_chunk({"content": "s"}, usage={"prompt_tokens": 9, "completion_tokens": None}),
            chat_chunk({"content": ""}, "stop", usage={"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}),
            DONE,
        ),
        kinds=(R, C, C),
        text="yes",
        counts=(9, 3, None, None),
        finish="stop",
    ),
    "responses: reasoning": Case(
        "responses",
        named(
            {"type": "response.reasoning_text.delta", "delta": "hm"},
            {"type": "response.reasoning_summary_text.delta", "delta": "so"},
            {"type": "response.reasoning_text.done", "text": "hm"},
            {"type": "response.output_text.delta", "delta": "yes"},
            _completed(usage={"input_tokens": 9, "output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 5}}),
        ),
        kinds=(R, R, C),
        text="yes",
        counts=(9, 7, 5, None),
        finish="completed",
    ),
    "messages: reasoning": Case(
        "messages",
        named(
            MESSAGE_START,
            block({"type": "thinking_delta", "thinking": "hm"}),
            block({"type": "thinking_delta", "thinking": ""}),
            block({"type": "signature_delta", "signature": "EqQB"}),
            block({"type": "text_delta", "text": "yes"}),
            {"type": "something_new", "index": 3},
            *_message_end("end_turn", 7),
        ),
        kinds=(R, C),
        text="yes",
        counts=(9, 7, None, None),
        finish="end_turn",
    ),
    "ollama: reasoning": Case(
        "ollama",
        lines(
            {"message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False},
            {"message": {"role": "assistant", "content": "yes"}, "done": False},
            {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "eval_count": 2},
        ),
        kinds=(R, C),
        text="yes",
        counts=(None, 2, None, None),
        finish="stop",
        content_type=NDJSON,
    ),
    "ollama-generate: reasoning": Case(
        "ollama-generate",
        lines(
            {"response": "", "thinking": "hm", "done": False},
            {"response": "yes", "done": False},
            {"response": "", "done": True, "done_reason": "stop", "eval_count": 2, "prompt_eval_count": 9},
        ),
        kinds=(R, C),
        text="yes",
        counts=(9, 2, None, None),
        finish="stop",
        content_type=NDJSON,
    ),
    "gemini: reasoning": Case(
        "gemini",
        sse(
            gemini_event([{"text": "hm", "thought": True}], 0, thoughtsTokenCount=5),
            gemini_event([{"text": "still", "thought": True}, {"text": "yes"}], 2, "STOP", thoughtsTokenCount=5),
        ),
        kinds=(R, C),
        text="yes",
        counts=(9, 7, 5, 4),
        finish="STOP",
        tokens=(5, 2),
    ),
    "sglang: a slow reader": Case(
        "sglang",
        sse(
            sglang_event("Hel", [1], 1),
            sglang_event("Hel", [1, 2], 2),  # half a character: nothing to be seen
            sglang_event("Hello wor", [1, 2, 3, 4, 5], 5),
            sglang_event("Hello world", [1, 2, 3, 4, 5, 6], 6, {"type": "stop", "matched": 2}),
            DONE,
        ),
        kinds=(C, C, C),
        text="Hello world",
        counts=(9, 6, None, 4),
        finish="stop",
        tokens=(1, 4, 1),
    ),
    # tools
    "chat: tool": Case(
        "chat",
        sse(
            chat_chunk(
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": ""}}
                    ],
                }
            ),
            chat_chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
            chat_chunk({"tool_calls": [{"function": {"arguments": "1}"}}]}),
            chat_chunk({}, "tool_calls"),
            DONE,
        ),
        kinds=(T, T, T),
        finish="tool_calls",
    ),
    "responses: tool": Case(
        "responses",
        named(
            {"type": "response.output_item.added", "item": {"type": "function_call", "name": "f"}},
            {"type": "response.function_call_arguments.delta", "delta": '{"a":'},
            {"type": "response.function_call_arguments.delta", "delta": "1}"},
            {"type": "response.function_call_arguments.done", "arguments": '{"a":1}'},
            _completed(usage=None),
        ),
        kinds=(T, T),
        finish="completed",
    ),
    "messages: tool": Case(
        "messages",
        named(
            MESSAGE_START,
            {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "f"}},
            block({"type": "input_json_delta", "partial_json": ""}),
            block({"type": "input_json_delta", "partial_json": '{"a": 1}'}),
            *_message_end("tool_use", 12),
        ),
        kinds=(T,),
        counts=(9, 12, None, None),
        finish="tool_use",
    ),
    "ollama: tool": Case(
        "ollama",
        lines(
            {
                "message": {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]},
                "done": False,
            },
            {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"},
        ),
        kinds=(T,),
        finish="stop",
        content_type=NDJSON,
    ),
    "gemini: tool": Case(
        "gemini",
        sse(gemini_event([{"functionCall": {"name": "f", "args": {"a": 1}}}], 6, "STOP")),
        kinds=(T,),
        counts=(9, 6, None, 4),
        finish="STOP",
        tokens=(6,),
    ),
    # refusals
    "chat: refusal": Case(
        "chat", sse(chat_chunk({"refusal": "No."}), END, DONE), kinds=(C,), text="No.", finish="stop"
    ),
    "responses: refusal": Case(
        "responses",
        named(
            {"type": "response.refusal.delta", "delta": "No."},
            {"type": "response.refusal.done", "refusal": "No."},
            _completed(),
        ),
        kinds=(C,),
        text="No.",
        finish="completed",
    ),
    "messages: refusal": Case(
        "messages",
        named(MESSAGE_START, block({"type": "text_delta", "text": "No."}), *_message_end("refusal", 2)),
        kinds=(C,),
        text="No.",
        counts=(9, 2, None, None),
        finish="refusal",
    ),
    "gemini: refusal": Case(
        "gemini",
        sse({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}}),
        counts=(9, None, None, None),
        error="server-error",
        words="the prompt was blocked: SAFETY",
    ),
    # what else is special
    "azure: filters": Case(
        "azure",
        sse(
            FILTERED,
            chat_chunk({"role": "assistant", "content": ""}),
            NO_DELTA,
            chat_chunk({"content": "a"}),
            END,
            DONE,
        ),
        kinds=(C,),
        text="a",
        finish="stop",
    ),
    "responses: cut short": Case(
        "responses",
        named(
            {"type": "response.output_text.delta", "delta": "a"},
            {
                "type": "response.incomplete",
                "response": {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            },
        ),
        kinds=(C,),
        text="a",
        finish="length",
    ),
    "completions: token ids": Case(
        "completions",
        sse(
            {"choices": [{"text": "a", "token_ids": [1], "prompt_token_ids": [5, 6]}]},
            {"choices": [{"text": "bcd", "token_ids": [2, 3, 4]}]},
            {"choices": [{"text": "e", "token_ids": [5], "finish_reason": "stop"}]},
            DONE,
        ),
        kinds=(C, C, C),
        text="abcde",
        finish="stop",
        tokens=(1, 3, 1),
    ),
    "chat: timings": Case(
        "chat",
        sse(
            chat_chunk({"content": "a"}, timings={"predicted_n": 1}),
            chat_chunk({"content": "b"}, timings={"predicted_n": 3}),
            END,
            DONE,
        ),
        kinds=(C, C),
        text="ab",
        finish="stop",
        tokens=(1, 2),
    ),
    "embeddings: normal": Case(
        "embeddings",
        dumped({"object": "list", "data": [{"embedding": [0.5, -1e-3]}], "usage": {"prompt_tokens": 9}}).encode(),
        kinds=(C,),
        counts=(9, 0, None, None),
        content_type=JSON,
    ),
    **ERRORS,
}
