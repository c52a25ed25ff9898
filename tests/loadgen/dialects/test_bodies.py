"""What each API is asked, written out by hand from the vendors' documents."""

import json
from typing import Any

import pytest

from loadgen.dialects import DIALECTS
from loadgen.dialects.answer import Ask
from loadgen.errors import UsageError

PNG = "data:image/png;base64,AAAA"
URL = "https://h/a.jpg"
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


def body(api: str, prompt: str = "third", **fields: Any) -> dict[str, Any]:
    made = DIALECTS[api].body(Ask("m", prompt, 16, fields.pop("ignore_eos", False), **fields))
    assert json.loads(json.dumps(made)) == made, "plain JSON"
    return made


STREAM = {"max_tokens": 16, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}

PLAIN: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "third"}], **STREAM},
    "completions": {"model": "m", "prompt": "third", **STREAM},
    "responses": {
        "model": "m",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "third"}]}],
        "max_output_tokens": 16,
        "temperature": 0,
        "stream": True,
        "store": False,
    },
    "azure": {"model": "m", "messages": [{"role": "user", "content": "third"}], **STREAM},
    "azure-completions": {"model": "m", "prompt": "third", **STREAM},
    "messages": {"model": "m", "messages": [{"role": "user", "content": "third"}], "max_tokens": 16, "stream": True},
    "databricks": {"messages": [{"role": "user", "content": "third"}], **STREAM},
    "databricks-completions": {"prompt": "third", **STREAM},
    "databricks-openai": {"model": "m", "messages": [{"role": "user", "content": "third"}], **STREAM},
    "sglang": {"text": "third", "sampling_params": {"max_new_tokens": 16, "temperature": 0}, "stream": True},
    "tgi": {
        "inputs": "third",
        "parameters": {"max_new_tokens": 16, "details": True, "do_sample": False},
        "stream": True,
    },
    "triton": {"text_input": "third", "max_tokens": 16, "temperature": 0, "stream": True},
    "ollama": {
        "model": "m",
        "messages": [{"role": "user", "content": "third"}],
        "stream": True,
        "options": {"num_predict": 16, "temperature": 0},
    },
    "ollama-generate": {
        "model": "m",
        "prompt": "third",
        "stream": True,
        "options": {"num_predict": 16, "temperature": 0},
    },
    "llamacpp": {"prompt": "third", "n_predict": 16, "temperature": 0, "stream": True, "cache_prompt": False},
    "gemini": {
        "contents": [{"role": "user", "parts": [{"text": "third"}]}],
        "generationConfig": {"maxOutputTokens": 16, "temperature": 0},
    },
    "embeddings": {"model": "m", "input": "third"},
}


@pytest.mark.parametrize("api", PLAIN)
def test_a_prompt_is_asked_as_the_api_wants_it(api):
    assert body(api) == PLAIN[api]


SAID = {"system": "Be brief.", "history": (("first", "one"), ("second", "two"))}
FLAT = "Be brief.\n\nfirstone\n\nsecondtwo\n\nthird"


@pytest.mark.parametrize(
    ("api", "key"), [("completions", "prompt"), ("sglang", "text"), ("tgi", "inputs"), ("triton", "text_input"),
                     ("llamacpp", "prompt"), ("ollama-generate", "prompt")]
)  # fmt: skip
def test_apis_without_roles_are_given_one_text_to_go_on_from(api, key):
    assert body(api, **SAID)[key] == FLAT
    # A later turn goes on from the very text that was answered: a prefix cache finds it.
    assert FLAT.startswith(body(api, "second", system="Be brief.", history=(("first", "one"),))[key])


def test_apis_with_roles_are_given_the_turns():
    turns = [("user", "first"), ("assistant", "one"), ("user", "second"), ("assistant", "two"), ("user", "third")]
    for api in ("chat", "ollama", "databricks", "azure"):
        assert [(one["role"], one["content"]) for one in body(api, **SAID)["messages"]] == [
            ("system", "Be brief."),
            *turns,
        ]
    asked = body("messages", **SAID)
    assert asked["system"] == "Be brief."
    assert [(one["role"], one["content"]) for one in asked["messages"]] == turns
    asked = body("responses", **SAID)
    assert asked["instructions"] == "Be brief."
    assert [(one["role"], one["content"][0]["text"]) for one in asked["input"]] == turns
    assert [one["content"][0]["type"] for one in asked["input"]] == ["input_text", "output_text"] * 2 + ["input_text"]
    asked = body("gemini", **SAID)
    assert asked["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    roles = {"user": "user", "assistant": "model"}
    assert [(one["role"], one["parts"][0]["text"]) for one in asked["contents"]] == [
        (roles[role], text) for role, text in turns
    ]


def test_images_stand_behind_the_prompt_as_each_api_wants_them():
    images = {"images": (PNG, URL)}
    assert body("chat", **images)["messages"][0]["content"] == [
        {"type": "text", "text": "third"},
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "image_url", "image_url": {"url": URL}},
    ]
    assert body("messages", **images)["messages"][0]["content"] == [
        {"type": "text", "text": "third"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": URL}},
    ]
    assert body("responses", **images)["input"][0]["content"][1:] == [
        {"type": "input_image", "image_url": PNG, "detail": "auto"},
        {"type": "input_image", "image_url": URL, "detail": "auto"},
    ]
    assert body("gemini", **images)["contents"][0]["parts"] == [
        {"text": "third"},
        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
        {"fileData": {"fileUri": URL}},
    ]
    assert body("ollama", images=(PNG,))["messages"] == [{"role": "user", "content": "third", "images": ["AAAA"]}]
    asked = body("ollama-generate", images=(PNG,))
    assert (asked["prompt"], asked["images"]) == ("third", ["AAAA"])
    with pytest.raises(UsageError, match="no URLs; give a file or a size"):
        body("ollama", images=(URL,))


CONVERSATION = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
    },
    {"role": "tool", "tool_call_id": "t1", "name": "f", "content": "sunny"},
)


def test_a_conversation_with_tools_is_translated():
    fields = {"messages": CONVERSATION, "tools": (TOOL,)}
    asked = body("chat", **fields)
    assert (asked["messages"], asked["tools"]) == (list(CONVERSATION), [TOOL])
    asked = body("messages", **fields)
    assert asked["tools"] == [{"name": "f", "description": "d", "input_schema": {"type": "object"}}]
    assert asked["messages"] == [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]}],
        },
    ]
    asked = body("responses", **fields)
    assert asked["tools"] == [{"type": "function", **TOOL["function"]}]
    assert asked["input"][1:] == [
        {"type": "function_call", "call_id": "t1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "t1", "output": "sunny"},
    ]
    asked = body("gemini", **fields)
    assert asked["tools"] == [{"functionDeclarations": [TOOL["function"]]}]
    assert asked["contents"][1:] == [
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"a": 1}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"result": "sunny"}}}]},
    ]
    asked = body("ollama", **fields)
    assert asked["tools"] == [TOOL]
    assert asked["messages"][2]["tool_calls"] == [{"function": {"name": "f", "arguments": {"a": 1}}}]


def test_a_conversation_takes_the_place_of_the_prompt():
    messages = ({"role": "user", "content": "hello"},)
    assert body("completions", messages=messages)["prompt"] == "hello"
    assert body("messages", messages=messages)["messages"] == list(messages)


@pytest.mark.parametrize("content", [3, [{"type": "audio"}], ["text"], [{"type": "text"}]])
def test_a_part_that_an_api_cannot_take_is_refused(content):
    with pytest.raises(UsageError, match=r"^--api: "):
        body("messages", messages=({"role": "user", "content": content},))


def test_an_image_in_a_conversation_for_an_api_of_texts_is_refused():
    content = [{"type": "image_url", "image_url": {"url": PNG}}]
    with pytest.raises(UsageError, match="this API takes text alone; give another --api"):
        body("tgi", messages=({"role": "user", "content": content},))


def test_prompts_of_token_ids():
    ids = {"token_ids": (5, 6)}
    assert body("completions", **ids)["prompt"] == [5, 6]
    assert body("llamacpp", **ids)["prompt"] == [5, 6]
    asked = body("sglang", **ids)
    assert (asked["input_ids"], "text" in asked) == ([5, 6], False)
    assert body("embeddings", **ids)["input"] == [5, 6]


def test_going_on_behind_the_end_is_said_in_each_apis_own_words():
    for api in ("chat", "completions", "responses", "llamacpp"):
        assert body(api, ignore_eos=True)["ignore_eos"] is True
    assert body("sglang", ignore_eos=True)["sampling_params"]["ignore_eos"] is True
    asked = body("triton", ignore_eos=True)
    assert (asked["min_length"], asked["end_id"]) == (16, 1 << 20)


@pytest.mark.parametrize(
    ("api", "fields", "words"),
    [
        ("messages", {"ignore_eos": True}, "--ignore-eos: the messages API takes no way to go on behind the end"),
        ("gemini", {"ignore_eos": True}, "--ignore-eos: the gemini API"),
        ("azure", {"ignore_eos": True}, "--ignore-eos: the azure API"),
        ("completions", {"images": (PNG,)}, "--image: the completions API takes no images"),
        ("sglang", {"images": (PNG,)}, "--image: the sglang API takes no images"),
        ("tgi", {"tools": (TOOL,)}, "--tools: the tgi API takes no tools"),
        ("chat", {"token_ids": (1,)}, "--api: the chat API takes no prompts of token ids"),
        (
            "embeddings",
            {"messages": ({"role": "user", "content": "a"},)},
            "--api: the embeddings API takes no conversations",
        ),
    ],
)
def test_what_an_api_cannot_say_is_refused_by_the_flag_that_asks_for_it(api, fields, words):
    with pytest.raises(UsageError) as caught:
        body(api, **fields)
    assert str(caught.value).startswith(words)
    assert str(caught.value).endswith("; leave it out or give another --api")


def test_embeddings_may_come_several_in_a_request():
    prompt = " ".join(f"w{i}" for i in range(10))
    assert body("embeddings", prompt, inputs=3)["input"] == ["w0 w1 w2 w3", "w4 w5 w6 w7", "w8 w9"]
    assert body("embeddings", token_ids=(1, 2, 3, 4), inputs=2)["input"] == [[1, 2], [3, 4]]
