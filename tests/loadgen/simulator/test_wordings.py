"""What each API's answer says, whatever the style: every token once, in order, and the counts."""

import itertools
import json
from typing import Any

import pytest
import worded
from hypothesis import given
from hypothesis import strategies as st

from loadgen.simulator.answer import Answer, Part
from loadgen.simulator.ask import Rules
from loadgen.simulator.wording import Style


def text_of(name: str, event: dict[str, Any]) -> str:
    """The text that one event adds, or all of it so far where the API repeats it; thinking aside."""
    match name:
        case "chat" | "azure" | "azure-v1" | "databricks":
            delta = event["choices"][0]["delta"] if event["choices"] else {}
            content = delta.get("content")
            return content if isinstance(content, str) else delta.get("refusal", "")
        case "completions":
            return event["choices"][0]["text"] if event["choices"] else ""
        case "responses":
            return event["delta"] if event["type"] in ("response.output_text.delta", "response.refusal.delta") else ""
        case "messages":
            return event.get("delta", {}).get("text", "")
        case "sglang":
            return event["text"]
        case "tgi":
            return event["token"]["text"]
        case "triton":
            return event["text_output"]
        case "ollama-chat":
            return event["message"]["content"]
        case "ollama-generate":
            return event["response"]
        case "llamacpp":
            return event["content"]
    parts = event["candidates"][0]["content"].get("parts", [])
    return "".join(part.get("text", "") for part in parts if not part.get("thought"))


def thought_of(name: str, event: dict[str, Any]) -> str:
    match name:
        case "chat" | "azure" | "azure-v1":
            return event["choices"][0]["delta"].get("reasoning_content", "") if event["choices"] else ""
        case "databricks":
            content = event["choices"][0]["delta"].get("content")
            return content[0]["summary"][0]["text"] if isinstance(content, list) else ""
        case "responses":
            return event["delta"] if event["type"] == "response.reasoning_text.delta" else ""
        case "messages":
            return event.get("delta", {}).get("thinking", "")
        case "ollama-chat":
            return event["message"].get("thinking", "")
        case "ollama-generate":
            return event.get("thinking", "")
    parts = event["candidates"][0]["content"].get("parts", [])
    return "".join(part["text"] for part in parts if part.get("thought"))


def output_tokens_of(name: str, events: list[dict[str, Any]]) -> int | None:
    """What the stream says that it held; None where the API does not say."""
    match name:
        case "chat" | "azure" | "azure-v1" | "databricks" | "completions":
            told = [event["usage"]["completion_tokens"] for event in events if event.get("usage")]
            return told[-1] if told else None
        case "responses":
            return events[-1]["response"]["usage"]["output_tokens"]
        case "messages":
            return events[-2]["usage"]["output_tokens"]
        case "sglang":
            return events[-1]["meta_info"]["completion_tokens"]
        case "tgi":
            return events[-1]["details"]["generated_tokens"] if events[-1]["details"] else None
        case "triton":
            return None
        case "ollama-chat" | "ollama-generate":
            return events[-1]["eval_count"]
        case "llamacpp":
            return events[-1]["tokens_predicted"]
    usage = events[-1]["usageMetadata"]
    return usage["candidatesTokenCount"] + usage.get("thoughtsTokenCount", 0)


ASKS_FOR_USAGE = {
    **{key: {"stream_options": {"include_usage": True}} for key in ("chat", "completions", "azure", "azure-v1")},
    "tgi": {"parameters": {"details": True}},
}
CUMULATIVE = ("sglang", "triton")
# Where reasoning has a place of its own, and how it is asked for.
THINKING = {
    "chat": {},
    "azure": {},
    "databricks": {},
    "responses": {},
    "messages": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "ollama-chat": {},
    "ollama-generate": {"think": True},
    "gemini": {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}},
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
OFFERS_A_TOOL = {
    "chat": {"tools": [TOOL]},
    "azure": {"tools": [TOOL]},
    "databricks": {"tools": [TOOL]},
    "responses": {"tools": [{"type": "function", "name": "weather", "parameters": {}}]},
    "messages": {"tools": [{"name": "weather", "input_schema": {"type": "object"}}]},
    "ollama-chat": {"tools": [TOOL]},
    "gemini": {"tools": [{"functionDeclarations": [{"name": "weather"}]}]},
    "gemini-array": {"tools": [{"functionDeclarations": [{"name": "weather"}]}]},
}


def events(name: str, said: Answer, style: Style) -> list[dict[str, Any]]:
    writes = worded.streamed(worded.encoder(name, said, style), said.output_tokens, style.tokens_per_event)
    return worded.objects(name, b"".join(writes).partition(b"\r\n\r\n")[2], style.crlf)


STYLES = st.builds(
    Style,
    role_event=st.sampled_from(["first", "early", "none"]),
    tokens_per_event=st.integers(1, 5),
    text=st.sampled_from(["plain", "unicode"]),
    crlf=st.booleans(),
    comments=st.booleans(),
    cumulative=st.sampled_from(["on", "off"]),
)


@given(st.sampled_from(sorted(worded.STREAMS)), STYLES, st.integers(1, 30))
def test_every_api_says_every_token_once_and_counts_them(name, style, tokens):
    said = worded.answer(name, tokens, **ASKS_FOR_USAGE.get(name, {}))
    got = events(name, said, style)
    texts = [text for event in got if (text := text_of(name, event))]
    if name in CUMULATIVE and style.cumulative == "on":
        assert all(later.startswith(text) for text, later in itertools.pairwise(texts))
        whole = texts[-1]
    else:
        whole = "".join(texts)
    assert whole.replace("-é✓🙂", "") == " ".join(f"w{number}" for number in range(tokens))
    counted = output_tokens_of(name, got)
    assert counted == (None if name == "triton" else tokens)
    steps = 1 if name == "tgi" else style.tokens_per_event
    repeats = name == "triton" and style.cumulative == "on"  # the last event, which has nothing new
    assert len(texts) == -(-tokens // steps) + repeats


@pytest.mark.parametrize("name", sorted(THINKING))
@given(style=STYLES, tokens=st.integers(1, 20), thoughts=st.integers(1, 25))
def test_reasoning_stands_apart_and_comes_first(name, style, tokens, thoughts):
    rules = Rules(reasoning_tokens=thoughts)
    wants = THINKING[name] | ASKS_FOR_USAGE.get(name, {})
    said = worded.answer(name, tokens, rules, **wants)
    assert worded.read(name, rules, **wants).reasoning == "shown"
    border = min(thoughts, tokens)
    said.parts = tuple(
        part for part in (Part("reasoning", 0, border), Part("content", border, tokens)) if part.first < part.end
    )
    got = events(name, said, style)
    thought = "".join(thought_of(name, event) for event in got)
    content = "".join(text_of(name, event) for event in got)
    assert len(thought.split()) == border
    assert [word.partition("-")[0] for word in (thought + content).split()] == [f"w{n}" for n in range(tokens)]
    assert output_tokens_of(name, got) == tokens
    kinds = [bool(thought_of(name, event)) for event in got if thought_of(name, event) or text_of(name, event)]
    assert kinds == sorted(kinds, reverse=True)


def called(name: str, got: list[dict[str, Any]]) -> tuple[str, dict[str, str], str]:
    """(name, arguments, reason of the end) of a streamed call."""
    match name:
        case "chat" | "azure" | "databricks":
            choices = [choice for event in got for choice in event["choices"]]
            calls = [call for choice in choices for call in choice["delta"].get("tool_calls", [])]
            arguments = "".join(call["function"]["arguments"] for call in calls)
            return calls[0]["function"]["name"], json.loads(arguments), choices[-1]["finish_reason"]
        case "responses":
            kind = "response.function_call_arguments.delta"
            arguments = "".join(event["delta"] for event in got if event["type"] == kind)
            item = got[-1]["response"]["output"][-1]
            assert item["arguments"].replace(" ", "") == arguments.replace(" ", "")
            return item["name"], json.loads(arguments), item["type"]
        case "messages":
            (block,) = (event["content_block"] for event in got if event["type"] == "content_block_start")
            arguments = "".join(event["delta"].get("partial_json", "") for event in got if "delta" in event)
            return block["name"], json.loads(arguments), got[-2]["delta"]["stop_reason"]
        case "ollama-chat":
            (call,) = (call for event in got for call in event["message"].get("tool_calls", []))
            return call["function"]["name"], call["function"]["arguments"], got[-1]["done_reason"]
    candidates = [event["candidates"][0] for event in got]
    (part,) = (part for candidate in candidates for part in candidate["content"].get("parts", []))
    return part["functionCall"]["name"], part["functionCall"]["args"], candidates[-1]["finishReason"]


REASONS = {"responses": "function_call", "messages": "tool_use", "ollama-chat": "stop"}


@pytest.mark.parametrize("name", sorted(OFFERS_A_TOOL))
@given(style=STYLES, tokens=st.integers(1, 20))
def test_a_tool_that_is_offered_is_called_with_arguments_that_are_json(name, style, tokens):
    offered = OFFERS_A_TOOL[name]
    said = worded.answer(name, tokens, kind="tool", **offered)
    said.finish = "tool"
    got = events(name, said, style)
    function, arguments, reason = called(name, got)
    assert function == "weather"
    assert [word.partition("-")[0] for word in arguments["text"].split()] == [f"w{n}" for n in range(tokens)]
    assert reason == REASONS.get(name, "STOP" if name.startswith("gemini") else "tool_calls")


@pytest.mark.parametrize("name", ["ollama-chat", "gemini", "gemini-array"])
def test_a_call_that_is_one_event_carries_all_its_tokens(name):
    said = worded.answer(name, 7, kind="tool", **OFFERS_A_TOOL[name])
    encoder = worded.encoder(name, said)
    assert not encoder.plain
    pieces = [piece for number in range(7) for piece in encoder.pieces(number, 1)]
    assert [piece.tokens for piece in pieces] == [7]


def test_a_refusal_has_a_place_of_its_own_where_the_api_has_one():
    chat, responses, messages = (worded.answer(name, 4, kind="refusal") for name in ("chat", "responses", "messages"))
    messages.finish = "refusal"
    deltas = [choice["delta"] for event in events("chat", chat, Style()) for choice in event["choices"]]
    assert "".join(delta.get("refusal", "") for delta in deltas) == "w0 w1 w2 w3"
    assert not any(delta.get("content") for delta in deltas)
    kinds = [event["type"] for event in events("responses", responses, Style())]
    assert kinds.count("response.refusal.delta") == 4
    assert events("messages", messages, Style())[-2]["delta"]["stop_reason"] == "refusal"


def test_continuous_usage_counts_up():
    options = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    for name, counts in (("chat", [0, 2, 4, 4, 4]), ("completions", [2, 4, 4, 4])):
        got = events(name, worded.answer(name, 4, **options), Style(tokens_per_event=2))
        assert [event["usage"]["completion_tokens"] for event in got] == counts


def test_token_ids_stand_beside_the_text_where_they_are_asked_for():
    for name in ("chat", "completions"):
        got = events(name, worded.answer(name, 5, return_token_ids=True), Style(tokens_per_event=2, role_event="none"))
        assert [event["choices"][0].get("token_ids") for event in got] == [[1000, 1001], [1002, 1003], [1004], None]


def test_databricks_sends_usage_in_every_event_and_only_the_last_is_whole():
    got = events("databricks", worded.answer("databricks", 3), Style())
    counts = [event["usage"]["completion_tokens"] for event in got]
    assert counts == [None, None, None, None, 3]
    assert {event["usage"]["prompt_tokens"] for event in got} == {2}


def test_azure_sends_the_results_of_its_filter_before_anything_is_generated():
    said = worded.answer("azure", 2)
    first = worded.objects("azure", worded.encoder("azure", said).early())[0]
    assert first["choices"] == []
    assert first["prompt_filter_results"][0]["content_filter_results"]["hate"]["filtered"] is False


def test_responses_number_their_events_and_say_how_they_end():
    got = events("responses", worded.answer("responses", 3), Style())
    assert [event["sequence_number"] for event in got] == list(range(len(got)))
    assert got[-1]["type"] == "response.incomplete"
    assert got[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    stopped = worded.answer("responses", 3)
    stopped.finish = "stop"
    assert events("responses", stopped, Style())[-1]["type"] == "response.completed"


def test_sglang_says_the_reason_with_the_last_token():
    got = events("sglang", worded.answer("sglang", 3), Style())
    assert [event["meta_info"]["finish_reason"] for event in got] == [None, None, {"type": "length", "length": 3}]
    assert [event["output_ids"] for event in got] == [[1000], [1000, 1001], [1000, 1001, 1002]]
    got = events("sglang", worded.answer("sglang", 3), Style(cumulative="off"))
    assert [event["output_ids"] for event in got] == [[1000], [1001], [1002]]


def test_llamacpp_tells_ids_and_timings_where_they_are_asked_for():
    got = events("llamacpp", worded.answer("llamacpp", 4, return_tokens=True, timings_per_token=True), Style())
    assert [event["tokens"] for event in got] == [[1000], [1001], [1002], [1003], []]
    assert [event["timings"]["predicted_n"] for event in got] == [1, 2, 3, 4, 4]
    assert got[-1]["stop_type"] == "limit"


def test_triton_may_be_asked_for_one_event_and_names_the_request():
    got = events("triton", worded.answer("triton", 4, stream=False, id="r7"), Style())
    assert [(event["id"], event["text_output"]) for event in got] == [("r7", "w0 w1 w2 w3")]


def test_hidden_reasoning_is_counted_and_never_sent():
    rules = Rules(reasoning_tokens=3)
    usage = {"stream_options": {"include_usage": True}}
    for name, wants in (("chat", {"include_reasoning": False, **usage}), ("gemini", {})):
        assert worded.read(name, rules, **wants).reasoning == "hidden"
        said = worded.answer(name, 5, rules, **wants)
        said.parts = (Part("hidden", 0, 3), Part("content", 3, 5))
        got = events(name, said, Style())
        assert "".join(text_of(name, event) for event in got) == " w3 w4"
        assert output_tokens_of(name, got) == 5
        assert not any(thought_of(name, event) for event in got)


@pytest.mark.parametrize("name", sorted(worded.STREAMS))
def test_an_error_in_the_stream_has_the_shape_of_its_api(name):
    data = worded.encoder(name, worded.answer(name, 3)).error("it broke")
    (error,) = worded.objects(name, data)
    shapes = {
        "responses": lambda: error["response"]["error"]["message"],
        "tgi": lambda: error["error"],
        "triton": lambda: error["error"],
        "ollama-chat": lambda: error["error"],
        "ollama-generate": lambda: error["error"],
    }
    assert shapes.get(name, lambda: error["error"]["message"])() == "it broke"
    # OpenAI's and SGLang's streams end as if nothing had been.
    ends_in_done = name in ("chat", "completions", "azure", "azure-v1", "databricks", "sglang")
    assert (b"[DONE]" in data) == ends_in_done


@pytest.mark.parametrize("name", sorted(set(worded.STREAMS) - {"azure-v1", "gemini-array", "ollama-generate"}))
def test_an_answer_that_does_not_stream_holds_all_of_it(name):
    dialect = worded.STREAMS[name][0]
    whole = dialect.wording(Style(), worded.answer(name, 3)).whole()
    places = {
        "completions": lambda: whole["choices"][0]["text"],
        "responses": lambda: whole["output"][0]["content"][0]["text"],
        "messages": lambda: whole["content"][0]["text"],
        "sglang": lambda: whole["text"],
        "tgi": lambda: whole["generated_text"],
        "triton": lambda: whole["text_output"],
        "ollama-chat": lambda: whole["message"]["content"],
        "llamacpp": lambda: whole["content"],
        "gemini": lambda: whole["candidates"][0]["content"]["parts"][0]["text"],
    }
    assert places.get(name, lambda: whole["choices"][0]["message"]["content"])() == "w0 w1 w2"
