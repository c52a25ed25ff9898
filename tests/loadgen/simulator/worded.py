"""Answers of the simulator, made without a server."""

import json
import random
from typing import Any

from loadgen.simulator.answer import CONTENT, Answer, Draws, Part, answer_to
from loadgen.simulator.ask import Call, Rules, Wants
from loadgen.simulator.dialects.azure import azure, versioned
from loadgen.simulator.dialects.chat import CHAT
from loadgen.simulator.dialects.completions import COMPLETIONS
from loadgen.simulator.dialects.databricks import databricks
from loadgen.simulator.dialects.dialect import Dialect
from loadgen.simulator.dialects.gemini import GEMINI_STREAM
from loadgen.simulator.dialects.llamacpp import LLAMACPP
from loadgen.simulator.dialects.messages import MESSAGES
from loadgen.simulator.dialects.ollama import OLLAMA_CHAT, OLLAMA_GENERATE
from loadgen.simulator.dialects.responses import RESPONSES
from loadgen.simulator.dialects.sglang import SGLANG
from loadgen.simulator.dialects.tgi import TGI_STREAM
from loadgen.simulator.dialects.triton import TRITON_STREAM
from loadgen.simulator.encode import StreamEncoder
from loadgen.simulator.wording import Style

MESSAGE = {"role": "user", "content": "a b"}
VERSION = {"anthropic-version": "2023-06-01"}
IN_PATH = {"model": "sim"}

# The least that each asks for a stream: (dialect, body, call).
STREAMS: dict[str, tuple[Dialect, dict[str, Any], Call]] = {
    "chat": (CHAT, {"model": "sim", "messages": [MESSAGE], "stream": True}, Call("POST", "")),
    "completions": (COMPLETIONS, {"model": "sim", "prompt": "a b", "stream": True}, Call("POST", "")),
    "responses": (RESPONSES, {"model": "sim", "input": "a b", "stream": True}, Call("POST", "")),
    "azure": (
        versioned(CHAT),
        {"messages": [MESSAGE], "stream": True},
        Call("POST", "", "api-version=1", names=IN_PATH),
    ),
    "azure-v1": (azure(CHAT), {"model": "sim", "messages": [MESSAGE], "stream": True}, Call("POST", "")),
    "databricks": (databricks(CHAT), {"messages": [MESSAGE], "stream": True}, Call("POST", "", names=IN_PATH)),
    "messages": (
        MESSAGES,
        {"model": "sim", "messages": [MESSAGE], "max_tokens": 128, "stream": True},
        Call("POST", "", fields=VERSION),
    ),
    "sglang": (SGLANG, {"text": "a b", "stream": True}, Call("POST", "")),
    "tgi": (TGI_STREAM, {"inputs": "a b"}, Call("POST", "")),
    "triton": (TRITON_STREAM, {"text_input": "a b", "stream": True}, Call("POST", "", names=IN_PATH)),
    "ollama-chat": (OLLAMA_CHAT, {"model": "sim", "messages": [MESSAGE]}, Call("POST", "")),
    "ollama-generate": (OLLAMA_GENERATE, {"model": "sim", "prompt": "a b"}, Call("POST", "")),
    "llamacpp": (LLAMACPP, {"prompt": "a b", "stream": True}, Call("POST", "")),
    "gemini": (GEMINI_STREAM, {"contents": [{"parts": [{"text": "a b"}]}]}, Call("POST", "", "alt=sse", names=IN_PATH)),
    "gemini-array": (GEMINI_STREAM, {"contents": [{"parts": [{"text": "a b"}]}]}, Call("POST", "", names=IN_PATH)),
}


def read(name: str, rules: Rules | None = None, **wants: Any) -> Wants:
    """What the dialect reads in a request that has these fields besides the least."""
    dialect, body, call = STREAMS[name]
    return dialect.read(body | wants, call, rules or Rules())


def answer(name: str, tokens: int = 3, rules: Rules | None = None, kind: str = CONTENT, **wants: Any) -> Answer:
    """An answer of so many tokens, all of a kind."""
    said = answer_to(read(name, rules, **wants), rules or Rules(default_output_tokens=tokens), Draws.of(0), "x-1")
    said.output_tokens = tokens
    said.parts = (Part(kind, 0, tokens),) if tokens else ()
    return said


def encoder(name: str, said: Answer, style: Style | None = None, framing: str = "close") -> StreamEncoder:
    return StreamEncoder(STREAMS[name][0].wording, style or Style(), said, framing)


def streamed(encoder: StreamEncoder, tokens: int, step: int = 1) -> list[bytes]:
    """The writes of a whole response, as the server makes them."""
    writes = [encoder.head("connection: keep-alive"), encoder.early() + encoder.late()]
    for first in range(0, tokens, step):
        count = min(step, tokens - first)
        if encoder.plain:
            writes.append(encoder.output(first, count))
        else:
            writes += [piece.data for piece in encoder.pieces(first, count)]
    return [*writes, encoder.closing()]


def draws(seed: int = 0) -> Draws:
    return Draws(random.Random(seed), random.Random(seed + 1))


def payloads(body: bytes, crlf: bool = False) -> list[str]:
    """The data of the events of an SSE body, in order."""
    end = "\r\n\r\n" if crlf else "\n\n"
    text = body.decode()
    assert text.endswith(end)
    lines = [line for event in text[: -len(end)].split(end) for line in event.splitlines()]
    assert all(line.startswith(("data:", "event: ", ": ping")) for line in lines if line)
    return [line.partition(":")[2].removeprefix(" ") for line in lines if line.startswith("data:")]


def objects(name: str, body: bytes, crlf: bool = False) -> list[dict[str, Any]]:
    """The JSON of all events of a body, in whatever way it is framed."""
    if name == "gemini-array":
        found: list[dict[str, Any]] = json.loads(body)
        return found
    if name.startswith("ollama"):
        assert body.endswith(b"\n")
        return [json.loads(line) for line in body.splitlines()]
    said = payloads(body, crlf or name == "gemini")
    return [json.loads(payload) for payload in said if payload != "[DONE]"]
