"""Every value of a request of everything, replaced by a value of every type: it is read or refused, and nothing else."""

import copy
import json
from typing import Any

import pytest
import worded

from loadgen.simulator.answer import answer_to
from loadgen.simulator.ask import Call, Refusal, Rules, Wants
from loadgen.simulator.dialects.databricks import INVOCATIONS
from loadgen.simulator.dialects.embeddings import EMBEDDINGS, GEMINI_EMBED, OLLAMA_EMBED
from loadgen.simulator.wording import Style, to_json

OTHERS: list[Any] = [None, True, 5, -1, 1.5, "x", "\ud800", [], [5], [[]], [{}], [None], {}, {"x": 5}, {"type": "text"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:x"}}
CHAT = {
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "min_tokens", "n"), 1),
    **dict.fromkeys(("ignore_eos", "include_reasoning", "return_token_ids"), True),
    "cache_salt": "x",
}
RICH: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    "azure": CHAT,
    "databricks": CHAT,
    "completions": {"prompt": [[1, 2]], "max_tokens": 1, "min_tokens": 1, "ignore_eos": True, "return_token_ids": True},
    "responses": {
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
        ],
        "instructions": "s",
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "tool_choice": {"type": "function", "name": "f"},
        "stream_options": {"include_obfuscation": False},
        "max_output_tokens": 1,
        "ignore_eos": True,
    },
    "messages": {
        "system": [{"type": "text", "text": "s"}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "source": {"data": "x"}}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "a"}]}]},
        ],
        "tools": [{"name": "f", "input_schema": {}}],
        "tool_choice": {"type": "tool", "name": "f"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    },
    "sglang": {
        "image_data": ["x"],
        "sampling_params": {"max_new_tokens": 1, "min_new_tokens": 1, "ignore_eos": True},
    },
    "tgi": {"parameters": {"max_new_tokens": 1, "details": True}},
    "triton": {"max_tokens": 1, "min_length": 1, "id": "x"},
    "ollama-chat": {
        "messages": [{"role": "user", "content": "a", "images": ["x"]}, {"role": "tool", "content": "x"}],
        "tools": [TOOL],
        "options": {"num_predict": 1},
        "think": True,
    },
    "ollama-generate": {"system": "s", "images": ["x"], "options": {"num_predict": 1}, "think": False},
    "llamacpp": {
        "n_predict": 1,
        **dict.fromkeys(("ignore_eos", "cache_prompt", "return_tokens", "timings_per_token"), True),
    },
    "gemini": {
        "contents": [
            {"role": "user", "parts": [{"text": "a"}, {"inlineData": {"data": "x"}}, {"file_data": {"file_uri": "x"}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]},
        ],
        "systemInstruction": {"parts": [{"text": "s"}]},
        "generationConfig": {"maxOutputTokens": 1, "thinkingConfig": {"include_thoughts": True}},
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
        "tool_config": {"functionCallingConfig": {"mode": "ANY"}},
    },
}
ALL = {
    name: (dialect, body | RICH[name], call) for name, (dialect, body, call) in worded.STREAMS.items() if name in RICH
}
ALL |= {
    "embeddings": (
        EMBEDDINGS,
        {"model": "sim", "input": ["a", "b"], "encoding_format": "float", "dimensions": 8},
        Call("POST", ""),
    ),
    "ollama-embed": (OLLAMA_EMBED, {"model": "sim", "input": ["a"], "dimensions": 8}, Call("POST", "")),
    "gemini-embed": (
        GEMINI_EMBED,
        {"requests": [{"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 8}]},
        Call("POST", "", names=worded.IN_PATH),
    ),
    "gemini-embed-one": (
        GEMINI_EMBED,
        {"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 8},
        Call("POST", "", names=worded.IN_PATH),
    ),
}


def places(value: Any) -> list[list[Any]]:
    """The way to everything that a JSON value holds."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [[key, *rest] for key in keys for rest in ([], *places(value[key]))]


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_value_of_any_type_is_read_or_refused(name):
    dialect, whole, call = ALL[name]
    assert isinstance(dialect.read(copy.deepcopy(whole), call, Rules()), Wants)
    statuses = set()
    for way in places(whole):
        for other in OTHERS:
            body = copy.deepcopy(whole)
            holder = body
            for key in way[:-1]:
                holder = holder[key]
            holder[way[-1]] = copy.deepcopy(other)
            try:
                wants = dialect.read(body, call, Rules())
                said = answer_to(wants, Rules(), worded.draws(), "x-1")
                json.loads(to_json(dialect.wording(Style(), said).whole()))
            except Refusal as refusal:
                statuses.add(refusal.status)
                json.loads(dialect.refused(refusal, refusal.status))
            except Exception as error:
                raise AssertionError(f"{way} = {other!r}") from error
    assert statuses
    assert statuses <= {400, 404}


def test_an_invocation_of_any_payload_is_one_of_a_task_or_refused():
    assert INVOCATIONS.by_body is not None
    assert INVOCATIONS.by_body({"input": 5}).name == "databricks embeddings"
