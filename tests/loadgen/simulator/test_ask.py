"""What each dialect reads in a request, and what it refuses."""

import pytest
import worded

from loadgen.simulator.ask import Call, Refusal, Rules, Wants, json_object
from loadgen.simulator.dialects import embeddings, messages
from loadgen.simulator.dialects.chat import CHAT
from loadgen.simulator.dialects.databricks import INVOCATIONS
from loadgen.simulator.dialects.dialect import Dialect

RULES = Rules(image_tokens=10)
IMAGE_URL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}


def repr_of(body: bytes) -> str:
    return repr(body[:8])


def tokens(name: str, **wants: object) -> int:
    return len(worded.read(name, RULES, **wants).prompt)


def said(*contents: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content} for content in contents]


@pytest.mark.parametrize(
    ("name", "wants", "count"),
    [
        ("chat", {}, 2),
        ("chat", {"messages": said(" x\n y\tz ", "q")}, 4),
        ("chat", {"messages": said([{"type": "text", "text": "a b"}, IMAGE_URL, {"type": "video"}])}, 12),
        ("chat", {"messages": said(None)}, 0),
        ("completions", {"prompt": "a b c"}, 3),
        ("completions", {"prompt": ["a b"]}, 2),
        ("completions", {"prompt": [5, 6, 7, 8]}, 4),
        ("completions", {"prompt": [[5, 6]]}, 2),
        ("completions", {"prompt": ""}, 0),
        ("responses", {"instructions": "be brief"}, 4),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a b c"}]}]}, 3),
        ("responses", {"input": said([{"type": "input_image", "image_url": "data:x"}])}, 10),
        ("responses", {"input": [{"type": "function_call_output", "output": "it rains"}]}, 2),
        ("messages", {"system": "be brief"}, 4),
        ("messages", {"system": [{"type": "text", "text": "x"}]}, 3),
        (
            "messages",
            {"messages": said([{"type": "image", "source": {"data": "AA"}}, {"type": "text", "text": "a"}])},
            11,
        ),
        ("sglang", {"text": "a b c", "image_data": "x.png"}, 13),
        ("sglang", {"text": None, "input_ids": [4, 5, 6]}, 3),
        ("tgi", {"inputs": "a b c"}, 3),
        ("triton", {"text_input": "a b c"}, 3),
        ("ollama-chat", {"messages": [{"role": "user", "content": "a", "images": ["AA", "BB"]}]}, 21),
        ("ollama-generate", {"system": "x y", "images": ["AA"]}, 14),
        ("llamacpp", {"prompt": [1, 2, 3]}, 3),
        ("gemini", {"systemInstruction": {"parts": [{"text": "x"}]}}, 3),
        ("gemini", {"contents": [{"parts": [{"inline_data": {"data": "AA"}}, {"text": "a"}]}]}, 11),
    ],
)
def test_prompt_tokens_are_words_or_ids_and_images(name, wants, count):
    assert tokens(name, **wants) == count


def test_a_chat_template_adds_tokens_to_each_message():
    rules = Rules(template_tokens=4)
    assert len(worded.read("chat", rules, messages=said("a", "b")).prompt) == 10
    assert len(worded.read("ollama-chat", rules, messages=said("a", "b")).prompt) == 10


@pytest.mark.parametrize(
    ("name", "wants", "param"),
    [
        ("chat", {"model": None}, "model"),
        ("chat", {"messages": None}, "messages"),
        ("chat", {"messages": []}, "messages"),
        ("chat", {"messages": ["hi"]}, "messages"),
        ("chat", {"messages": said(5)}, "messages"),
        ("chat", {"messages": said([5])}, "messages"),
        ("chat", {"n": 2}, "n"),
        ("chat", {"stream": "yes"}, "stream"),
        ("chat", {"stream": False, "stream_options": {"include_usage": True}}, "stream_options"),
        ("chat", {"stream_options": [1]}, "stream_options"),
        ("chat", {"max_tokens": 0}, "max_tokens"),
        ("chat", {"max_tokens": True}, "max_tokens"),
        ("chat", {"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ("chat", {"tools": [{"type": "function"}]}, "tools"),
        ("chat", {"tools": "all"}, "tools"),
        ("chat", {"tool_choice": "required"}, "tool_choice"),
        ("chat", {"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ("completions", {"prompt": None}, "prompt"),
        ("completions", {"prompt": []}, "prompt"),
        ("completions", {"prompt": ["a", "b"]}, "prompt"),
        ("completions", {"prompt": [1, "b"]}, "prompt"),
        ("responses", {"input": None}, "input"),
        ("responses", {"stream_options": {"include_usage": True}}, "stream_options.include_usage"),
        ("responses", {"max_output_tokens": 0}, "max_output_tokens"),
        ("messages", {"max_tokens": None}, "max_tokens"),
        ("messages", {"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ("messages", {"system": 5}, "system"),
        ("sglang", {"text": None}, "text"),
        ("sglang", {"input_ids": [1]}, "text"),
        ("sglang", {"sampling_params": {"max_new_tokens": 0}}, "max_new_tokens"),
        ("tgi", {"inputs": ""}, "inputs"),
        ("tgi", {"inputs": ["a"]}, "inputs"),
        ("tgi", {"parameters": {"max_new_tokens": 0}}, "max_new_tokens"),
        ("triton", {"text_input": None}, "text_input"),
        ("ollama-chat", {"messages": said([1])}, "messages"),
        ("ollama-generate", {"prompt": 5}, "prompt"),
        ("ollama-generate", {"options": {"num_predict": "x"}}, "num_predict"),
        ("llamacpp", {"prompt": {}}, "prompt"),
        ("gemini", {"contents": []}, "contents"),
        ("gemini", {"contents": [{"parts": "x"}]}, "contents"),
        ("gemini", {"generationConfig": {"maxOutputTokens": -1}}, "maxOutputTokens"),
    ],
)
def test_a_wrong_field_is_refused_by_name(name, wants, param):
    with pytest.raises(Refusal) as refusal:
        worded.read(name, **wants)
    assert (refusal.value.status, refusal.value.param) == (400, param)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe{}", b"5", b"[" * 100_000], ids=repr_of)
def test_a_body_that_is_no_json_object_is_refused(body):
    with pytest.raises(Refusal, match="JSON"):
        json_object(body)


@pytest.mark.parametrize("name", ["chat", "completions", "responses", "messages", "ollama-chat", "ollama-generate"])
def test_another_model_is_not_found(name):
    with pytest.raises(Refusal) as refusal:
        worded.read(name, model="gpt")
    assert (refusal.value.status, refusal.value.code) == (404, "model_not_found")


@pytest.mark.parametrize("name", ["azure", "databricks", "triton", "gemini"])
def test_a_model_in_the_path_counts(name):
    dialect, body, call = worded.STREAMS[name]
    elsewhere = Call("POST", "", call.query, names={"model": "gpt"})
    with pytest.raises(Refusal) as refusal:
        dialect.read(body | {"model": "sim"}, elsewhere, RULES)
    assert refusal.value.code == "model_not_found"


LIMITS = {
    "chat": {"max_tokens": 9},
    "completions": {"max_tokens": 9},
    "responses": {"max_output_tokens": 9},
    "azure": {"max_completion_tokens": 9},
    "databricks": {"max_tokens": 9},
    "messages": {"max_tokens": 9},
    "sglang": {"sampling_params": {"max_new_tokens": 9}},
    "tgi": {"parameters": {"max_new_tokens": 9}},
    "triton": {"max_tokens": 9},
    "ollama-chat": {"options": {"num_predict": 9}},
    "ollama-generate": {"options": {"num_predict": 9}},
    "llamacpp": {"n_predict": 9},
    "gemini": {"generationConfig": {"maxOutputTokens": 9}},
}


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_every_api_has_its_own_name_for_the_limit(name):
    assert worded.read(name, **LIMITS[name]).limit == 9
    assert name == "messages" or worded.read(name).limit is None


def test_no_limit_has_more_than_one_name():
    assert worded.read("chat", max_tokens=9, max_completion_tokens=11).limit == 11
    assert worded.read("ollama-chat", options={"num_predict": -1}).limit is None
    assert worded.read("llamacpp", n_predict=-1).limit is None


def test_the_end_may_be_put_off():
    assert worded.read("chat", ignore_eos=True, min_tokens=3).ignore_eos
    assert worded.read("chat", min_tokens=3).least == 3
    assert worded.read("sglang", sampling_params={"ignore_eos": True, "min_new_tokens": 3}).least == 3
    assert worded.read("llamacpp", ignore_eos=True).ignore_eos
    assert worded.read("triton", min_length=5).least == 5


def test_continuous_usage_comes_with_usage_alone():
    def usage(**options: bool) -> tuple[bool, bool]:
        own = worded.read("chat", stream_options=options).own
        return own["include_usage"], own["continuous_usage"]

    assert usage(include_usage=True) == (True, False)
    assert usage(include_usage=True, continuous_usage_stats=True) == (True, True)
    assert usage(continuous_usage_stats=True) == (False, False)


@pytest.mark.parametrize("name", ["chat", "completions", "databricks"])
def test_a_server_that_knows_no_stream_options_refuses_them(name):
    rules = Rules(stream_options=False)
    with pytest.raises(Refusal, match="stream_options"):
        worded.read(name, rules, stream_options={"include_usage": True})
    assert worded.read(name, rules).stream


def test_a_version_is_asked_for_where_the_api_has_one():
    dialect, body, _ = worded.STREAMS["messages"]
    with pytest.raises(Refusal, match="anthropic-version: header is required"):
        dialect.read(body, Call("POST", ""), RULES)
    assert messages.read_without_version(body, Call("POST", ""), RULES).stream
    dialect, body, _ = worded.STREAMS["azure"]
    with pytest.raises(Refusal, match="Resource not found"):
        dialect.read(body, Call("POST", "", names=worded.IN_PATH), RULES)


def test_streaming_is_the_default_of_some():
    assert worded.read("ollama-chat").stream
    assert not worded.read("ollama-chat", stream=False).stream
    assert not worded.read("chat", stream=None).stream
    assert not worded.read("llamacpp", stream=False).stream


TOOL = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize(
    ("name", "wants", "expected"),
    [
        ("chat", {}, (False, True, False)),
        ("chat", {"tools": [TOOL]}, (True, True, False)),
        ("chat", {"tools": [TOOL], "tool_choice": "none"}, (True, False, False)),
        ("chat", {"tools": [TOOL], "tool_choice": "required"}, (True, True, True)),
        ("chat", {"tools": [TOOL], "tool_choice": TOOL}, (True, True, True)),
        ("chat", {"tools": [TOOL], "messages": [{"role": "tool", "content": "x"}]}, (True, False, False)),
        ("messages", {"tools": [{"name": "weather"}], "tool_choice": {"type": "any"}}, (True, True, True)),
        ("messages", {"tools": [{"name": "weather"}], "tool_choice": {"type": "none"}}, (True, False, False)),
        ("messages", {"messages": said([{"type": "tool_result", "content": "x"}])}, (False, False, False)),
        ("responses", {"tools": [{"type": "function", "name": "weather"}]}, (True, True, False)),
        ("responses", {"input": [{"type": "function_call_output", "output": "x"}]}, (False, False, False)),
        ("ollama-chat", {"tools": [TOOL], "messages": [{"role": "tool", "content": "x"}]}, (True, False, False)),
        ("gemini", {"tools": [{"function_declarations": [{"name": "weather"}]}]}, (True, True, False)),
        ("gemini", {"contents": [{"parts": [{"functionResponse": {}}]}]}, (False, False, False)),
        ("gemini", {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}}, (False, False, False)),
    ],
)
def test_a_tool_is_called_where_it_is_offered_and_not_where_its_result_is_told(name, wants, expected):
    wants_ = worded.read(name, **wants)
    assert (wants_.tools == ("weather",), wants_.may_call, wants_.must_call) == expected


def test_a_salt_and_a_switched_off_cache_are_read():
    assert worded.read("chat", cache_salt="x").salt == "x"
    assert not worded.read("llamacpp", cache_prompt=False).cacheable


def invoked(**wants: object) -> Dialect:
    assert INVOCATIONS.by_body is not None
    return INVOCATIONS.by_body(wants)


def test_an_invocation_is_what_its_payload_holds():
    assert invoked(messages=[]).wording is CHAT.wording
    assert invoked(prompt="x").name == "databricks completions"
    assert invoked(input="x").name == "databricks embeddings"
    with pytest.raises(Refusal, match="messages, prompt or input"):
        invoked(x=1)


def embedded(given: object, **wants: object) -> Wants:
    return embeddings.read({"model": "sim", "input": given, **wants}, Call("POST", ""), RULES)


def test_inputs_to_embed_are_one_or_many():
    for given, count, inputs in (("a b", 2, 1), (["a b", "c"], 3, 2), ([1, 2, 3], 3, 1), ([[1, 2], [3]], 3, 2)):
        wants = embedded(given)
        assert (len(wants.prompt), len(wants.own["vectors"])) == (count, inputs)
    assert len(embedded("a", dimensions=8).own["vectors"][0]) == 8
    for wrong in (None, [], 5):
        with pytest.raises(Refusal, match="input"):
            embedded(wrong)
    with pytest.raises(Refusal, match="encoding_format"):
        embedded("a", encoding_format="hex")
