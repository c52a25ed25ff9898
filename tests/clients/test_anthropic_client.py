"""The official `anthropic` package: messages, its stream helper, tool use, thinking, counts, errors."""

import base64
from collections.abc import Iterator

import anthropic
import pytest

KEY = "s3cret"
ASKED = [{"role": "user", "content": "how fast is this endpoint"}]
THINKING = {"type": "enabled", "budget_tokens": 1024}
TOOLS = [{"name": "weather", "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}}}]


@pytest.fixture(params=["", "/serving-endpoints/anthropic"], ids=["anthropic", "databricks"])
def client(root: str, request: pytest.FixtureRequest) -> Iterator[anthropic.Anthropic]:
    key = {"auth_token": KEY} if request.param else {"api_key": KEY}
    with anthropic.Anthropic(base_url=f"{root}{request.param}", max_retries=0, **key) as client:
        yield client


def test_a_message_streams(client, truth, words):
    with client.messages.stream(model="sim", max_tokens=7, messages=ASKED) as stream:
        deltas = list(stream.text_stream)
        done = stream.get_final_message()
    assert "".join(deltas) == done.content[0].text == words(0, 7)
    assert (done.stop_reason, done.usage.input_tokens, done.usage.output_tokens) == ("max_tokens", 5, 7)
    row = truth(done.id)
    assert len(row["event_ns"]) == len(row["token_ns"]) == len(deltas) == 7


def test_thinking_streams_before_the_text(client, truth, words):
    asked = {"model": "sim", "max_tokens": 6, "messages": ASKED, "thinking": THINKING}
    with client.messages.stream(**asked) as stream:
        events = list(stream)
        done = stream.get_final_message()
    thought, said = done.content
    assert (thought.type, thought.thinking, bool(thought.signature)) == ("thinking", words(0, 2), True)
    assert said.text.strip() == words(2, 6)
    deltas = [event for event in events if event.type in ("thinking", "text")]
    assert [event.type for event in deltas] == ["thinking"] * 2 + ["text"] * 4
    assert len(truth(done.id)["event_ns"]) == len(deltas)


def test_a_tool_is_used_and_its_result_is_answered(client, truth):
    asked = {"model": "sim", "max_tokens": 5, "tools": TOOLS}
    with client.messages.stream(messages=ASKED, **asked) as stream:
        fragments = [event.partial_json for event in stream if event.type == "input_json"]
        done = stream.get_final_message()
    (used,) = done.content
    assert (used.name, used.input, done.stop_reason) == ("weather", {"text": "w0 w1 w2 w3 w4"}, "tool_use")
    assert len(truth(done.id)["event_ns"]) == len(fragments) == 5
    result = [{"type": "tool_result", "tool_use_id": used.id, "content": "it rains"}]
    answer = [*ASKED, {"role": "assistant", "content": [used.model_dump()]}, {"role": "user", "content": result}]
    assert client.messages.create(messages=answer, **asked).content[0].text == "w0 w1 w2 w3 w4"


def test_events_come_in_anthropic_s_order(client):
    kinds = [event.type for event in client.messages.create(model="sim", max_tokens=2, messages=ASKED, stream=True)]
    expected = ["message_start", "content_block_start", *["content_block_delta"] * 2, "content_block_stop"]
    assert [kind for kind in kinds if kind != "ping"] == [*expected, "message_delta", "message_stop"]


def test_an_image_and_a_system_prompt_are_counted(client, request):
    data = base64.b64encode(request.node.name.encode()).decode()  # one that the cache does not know
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    asked = [{"role": "user", "content": [{"type": "text", "text": "what is this"}, image]}]
    done = client.messages.create(model="sim", max_tokens=1, system="be brief", messages=asked)
    assert done.usage.input_tokens == 3 + 2 + 256


def test_a_cached_prefix_is_told_apart_from_what_was_read(client, request):
    text = " ".join(f"{request.node.name}{number}" for number in range(64))
    usages = [
        client.messages.create(model="sim", max_tokens=1, messages=[{"role": "user", "content": f"{text} {end}"}]).usage
        for end in "ab"
    ]
    assert [(usage.input_tokens, usage.cache_read_input_tokens) for usage in usages] == [(65, 0), (1, 64)]


def test_errors_are_the_client_s_own(client):
    with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
        client.messages.create(model="gpt", max_tokens=1, messages=ASKED)
    choice = {"type": "tool", "name": "none"}
    with pytest.raises(anthropic.BadRequestError, match="tool_choice"):
        client.messages.create(model="sim", max_tokens=1, messages=ASKED, tools=TOOLS, tool_choice=choice)


@pytest.fixture
def stranger(root: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=root, api_key="wrong", max_retries=0) as client:
        yield client


def test_a_wrong_key_is_refused(stranger):
    with pytest.raises(anthropic.AuthenticationError, match="authentication_error"):
        stranger.messages.create(model="sim", max_tokens=1, messages=ASKED)


def test_tokens_are_counted_before_they_are_sent(root):
    with anthropic.Anthropic(base_url=root, api_key=KEY, max_retries=0) as client:
        assert client.messages.count_tokens(model="sim", messages=ASKED).input_tokens == 5
