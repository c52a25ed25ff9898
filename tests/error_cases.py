"""How each API says that it has failed: in its stream, and as the body of a 429."""

from streams import (
    DONE,
    JSON,
    MESSAGE_START,
    NDJSON,
    C,
    Case,
    block,
    chat_chunk,
    lines,
    named,
    sglang_event,
    sse,
    triton_event,
)

WORDS = "out of memory"

ERRORS: dict[str, Case] = {
    "chat: error": Case(
        "chat",
        sse(chat_chunk({"content": "a"}), {"error": {"message": WORDS, "code": 500}}, DONE),
        kinds=(C,),
        text="a",
        error="server-error",
        words=WORDS,
    ),
    "completions: error": Case(
        "completions", sse({"error": {"message": WORDS}}, DONE), error="server-error", words=WORDS
    ),
    "responses: error": Case(
        "responses",
        named({"type": "error", "code": "server_error", "message": WORDS, "param": None}),
        error="server-error",
        words=WORDS,
    ),
    "responses: failed": Case(
        "responses",
        named({"type": "response.failed", "response": {"status": "failed", "error": {"message": WORDS}}}),
        finish="failed",
        error="server-error",
        words=WORDS,
    ),
    "messages: error": Case(
        "messages",
        named(
            MESSAGE_START,
            block({"type": "text_delta", "text": "a"}),
            {"type": "error", "error": {"type": "overloaded_error", "message": WORDS}},
        ),
        kinds=(C,),
        text="a",
        counts=(9, None, None, None),
        error="server-error",
        words=WORDS,
    ),
    "sglang: error": Case(
        "sglang",
        sse({"error": {"message": WORDS, "type": "invalid_request_error", "code": 400}}, DONE),
        error="server-error",
        words=WORDS,
    ),
    "sglang: aborted": Case(
        "sglang",
        sse(sglang_event("", [], 0, {"type": "abort", "message": WORDS, "status_code": 503}), DONE),
        counts=(9, 0, None, 4),
        finish="abort",
        error="server-error",
        words=WORDS,
    ),
    "tgi: error": Case(
        "tgi",
        b'data:{"error":"out of memory","error_type":"generation"}\n\n',
        error="server-error",
        words=WORDS,
    ),
    "triton: error": Case(
        "triton", sse(triton_event("a"), {"error": WORDS}), kinds=(C,), text="a", error="server-error", words=WORDS
    ),
    "ollama: error": Case("ollama", lines({"error": WORDS}), error="server-error", words=WORDS, content_type=NDJSON),
    "ollama-generate: error": Case(
        "ollama-generate", lines({"error": WORDS}), error="server-error", words=WORDS, content_type=NDJSON
    ),
    "llamacpp: error": Case(
        "llamacpp", sse({"error": {"code": 500, "message": WORDS}}), error="server-error", words=WORDS
    ),
    "gemini: error": Case(
        "gemini",
        sse({"error": {"code": 503, "message": WORDS, "status": "UNAVAILABLE"}}),
        error="server-error",
        words=WORDS,
    ),
    "embeddings: error": Case(
        "embeddings", b'{"error":{"message":"out of memory"}}', error="server-error", words=WORDS, content_type=JSON
    ),
}

HTTP_ERRORS: dict[str, bytes] = {
    "chat": b'{"error":{"message":"slow down","type":"rate_limit","param":null,"code":429}}',
    "completions": b'{"error":{"message":"slow down"}}',
    "responses": b'{"error":{"message":"slow down","type":"tokens"}}',
    "azure": b'{"error":{"code":"429","message":"slow down"}}',
    "messages": b'{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}',
    "databricks": b'{"error_code":"REQUEST_LIMIT_EXCEEDED","message":"slow down"}',
    "sglang": b'{"error":{"message":"slow down","code":429}}',
    "tgi": b'{"error":"slow down","error_type":"overloaded"}',
    "triton": b'{"error":"slow down"}',
    "ollama": b'{"error":"slow down"}',
    "ollama-generate": b'{"error":"slow down"}',
    "llamacpp": b'{"error":{"code":429,"message":"slow down","type":"unavailable_error"}}',
    "gemini": b'[{"error":{"code":429,"message":"slow down","status":"RESOURCE_EXHAUSTED"}}]',
    "embeddings": b'{"detail":"slow down"}',
}
"""The body of a 429, in each API's own shape."""
