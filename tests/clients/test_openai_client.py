"""The official `openai` package: chat, completions, responses and embeddings; Azure's client; Databricks' address."""

from collections.abc import Iterator

import openai
import pytest

KEY = "s3cret"
ASKED = [{"role": "user", "content": "how fast is this endpoint"}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}}},
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture
def client(root: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{root}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(params=["deployments", "v1"])
def azure(root: str, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    if request.param == "v1":
        made = openai.OpenAI(base_url=f"{root}/openai/v1", api_key=KEY, default_headers={"api-key": KEY}, max_retries=0)
    else:
        made = openai.AzureOpenAI(azure_endpoint=root, api_key=KEY, api_version="2024-10-21", max_retries=0)
    with made as client:
        yield client


@pytest.fixture
def databricks(root: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{root}/serving-endpoints", api_key=KEY, max_retries=0) as client:
        yield client


def streamed_chat(client, **wants):
    """(id, events with output, text, usage, reason) of a streamed chat."""
    stream = client.chat.completions.create(
        model="sim",
        messages=wants.pop("messages", ASKED),
        stream=True,
        stream_options={"include_usage": True},
        **wants,
    )
    chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    usage = [chunk.usage for chunk in chunks if chunk.usage and chunk.usage.completion_tokens is not None]
    outputs = [delta for delta in deltas if delta.content or delta.tool_calls or getattr(delta, "reasoning_content", 0)]
    return chunks[-1].id, outputs, usage[-1], reasons[-1]


def test_a_chat_streams(client, truth, words):
    response_id, outputs, usage, reason = streamed_chat(client, max_completion_tokens=9)
    assert "".join(delta.reasoning_content for delta in outputs[:2]) == words(0, 2)
    assert "".join(delta.content for delta in outputs[2:]).strip() == words(2, 9)
    assert (usage.prompt_tokens, usage.completion_tokens, reason) == (5, 9, "length")
    assert usage.completion_tokens_details.reasoning_tokens == 2
    row = truth(response_id)
    assert len(row["event_ns"]) == len(row["token_ns"]) == len(outputs) == 9


def test_a_tool_call_streams_through_the_client_s_own_accumulation(client, truth):
    with client.chat.completions.stream(model="sim", messages=ASKED, max_tokens=6, tools=[TOOL]) as stream:
        done = stream.get_final_completion()
    (call,) = done.choices[0].message.tool_calls
    assert (call.function.name, done.choices[0].finish_reason) == ("weather", "tool_calls")
    assert call.function.arguments.replace(" ", "") == '{"text":"w2w3w4w5"}'
    answer = [
        *ASKED,
        {"role": "assistant", "tool_calls": [call.model_dump(include={"id", "type", "function"})]},
        {"role": "tool", "tool_call_id": call.id, "content": "it rains"},
    ]
    _, outputs, _, reason = streamed_chat(client, messages=answer, tools=[TOOL], max_tokens=4)
    assert reason == "length"
    assert not any(delta.tool_calls for delta in outputs)
    assert len(truth(done.id)["token_ns"]) == 6


def test_a_chat_that_does_not_stream_is_read(client, words):
    done = client.chat.completions.create(model="sim", messages=ASKED, max_tokens=5)
    assert done.choices[0].message.content.strip() == words(2, 5)
    assert done.usage.completion_tokens == 5


def test_an_image_is_counted(client):
    parts = [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    _, _, usage, _ = streamed_chat(client, messages=[{"role": "user", "content": parts}], max_tokens=2)
    assert usage.prompt_tokens == 3 + 256


def test_a_prefix_that_was_seen_before_is_cached(client):
    text = " ".join(f"prefix{number}" for number in range(100))
    first, second = (
        client.completions.create(model="sim", prompt=f"{text} {end}", max_tokens=2).usage for end in ("a", "b")
    )
    assert (first.prompt_tokens_details.cached_tokens, second.prompt_tokens_details.cached_tokens) == (0, 96)


def test_completions_stream(client, truth, words):
    chunks = list(client.completions.create(model="sim", prompt="one two three", max_tokens=7, stream=True))
    texts = [chunk.choices[0].text for chunk in chunks if chunk.choices[0].text]
    assert "".join(texts) == words(0, 7)
    assert len(truth(chunks[0].id)["event_ns"]) == len(texts)


def test_responses_stream(client, truth, words):
    events = list(client.responses.create(model="sim", input="how fast", max_output_tokens=8, stream=True))
    done = events[-1].response
    deltas = [event.delta for event in events if event.type.endswith(".delta")]
    assert "".join(deltas) == words(0, 8)
    assert done.output_text.strip() == words(2, 8)
    assert (done.status, done.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (done.usage.output_tokens, done.usage.output_tokens_details.reasoning_tokens) == (8, 2)
    assert len(truth(done.id)["event_ns"]) == len(deltas)


def test_a_response_calls_a_tool(client, truth):
    tools = [{"type": "function", "name": "weather", "parameters": TOOL["function"]["parameters"], "strict": False}]
    with client.responses.stream(model="sim", input="rain?", max_output_tokens=6, tools=tools) as stream:
        events = list(stream)
        done = stream.get_final_response()
    (call,) = (item for item in done.output if item.type == "function_call")
    fragments = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert call.name == "weather"
    assert call.arguments == '{"text":" w2 w3 w4 w5"}' == "".join(fragments)
    assert len(truth(done.id)["event_ns"]) == len(fragments) + 2
    whole = client.responses.create(model="sim", input="rain?", max_output_tokens=6)
    assert whole.output_text == " w2 w3 w4 w5"


@pytest.mark.parametrize("form", [openai.omit, "float"], ids=["base64", "float"])
def test_embeddings_are_vectors_of_length_one(client, form):
    done = client.embeddings.create(model="sim", input=["one two", "three", "one two"], encoding_format=form)
    first, second, third = (item.embedding for item in done.data)
    assert first == third != second
    assert sum(number * number for number in first) == pytest.approx(1, abs=1e-4)
    assert done.usage.prompt_tokens == 5


def test_azure_streams(azure, truth, words):
    response_id, outputs, usage, reason = streamed_chat(azure, max_tokens=6)
    assert "".join(delta.content for delta in outputs if delta.content).strip() == words(2, 6)
    assert (usage.completion_tokens, reason) == (6, "length")
    assert len(truth(response_id)["event_ns"]) == len(outputs) == 6
    assert azure.embeddings.create(model="sim", input="one two").usage.prompt_tokens == 2


def test_databricks_streams_with_reasoning_as_a_list(databricks, truth, words):
    response_id, outputs, usage, reason = streamed_chat(databricks, max_tokens=6)
    thoughts = [delta.content[0]["summary"][0]["text"] for delta in outputs if isinstance(delta.content, list)]
    texts = [delta.content for delta in outputs if isinstance(delta.content, str)]
    assert ("".join(thoughts), "".join(texts).strip()) == (words(0, 2), words(2, 6))
    assert (usage.completion_tokens, reason) == (6, "length")
    assert len(truth(response_id)["event_ns"]) == len(outputs) == 6


def test_an_endpoint_of_databricks_is_invoked_by_its_name(root):
    with openai.OpenAI(base_url=f"{root}/serving-endpoints/sim", api_key=KEY, max_retries=0) as client:
        chat = {"messages": ASKED, "max_tokens": 4}
        done = client.post("/invocations", body=chat, cast_to=object)
        assert done["choices"][0]["message"]["content"][1]["text"] == " w2 w3"
        text = client.post("/invocations", body={"prompt": "one two", "max_tokens": 3}, cast_to=object)
        assert text["choices"][0]["text"] == "w0 w1 w2"
        vectors = client.post("/invocations", body={"input": ["one"]}, cast_to=object)
        assert len(vectors["data"]) == 1


def test_errors_are_the_client_s_own(client, azure):
    with pytest.raises(openai.NotFoundError, match="serves `sim`"):
        client.chat.completions.create(model="gpt", messages=ASKED)
    with pytest.raises(openai.BadRequestError, match="max_tokens must be a whole number"):
        client.chat.completions.create(model="sim", messages=ASKED, max_tokens=0)
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.chat.completions.create(model="sim", messages=ASKED, max_tokens=1 << 21)
    stranger = client.with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
        stranger.models.list()
    with pytest.raises(openai.NotFoundError, match="deployment for this resource does not exist"):
        azure.chat.completions.create(model="gpt", messages=ASKED)


def test_the_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["sim"]
    assert client.models.retrieve("sim").id == "sim"
