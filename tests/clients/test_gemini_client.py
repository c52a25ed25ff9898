"""The official `google-genai` package, with its base URL set to ours."""

from collections.abc import Iterator

import pytest
from google import genai
from google.genai import errors, types


@pytest.fixture
def client(root: str) -> Iterator[genai.Client]:
    client = genai.Client(api_key="s3cret", http_options=types.HttpOptions(base_url=root))
    yield client
    client.close()


def config(tokens: int, **more) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(max_output_tokens=tokens, **more)


THINKING = {"thinking_config": types.ThinkingConfig(include_thoughts=True)}
WEATHER = types.FunctionDeclaration(name="weather", parameters_json_schema={"type": "object", "properties": {}})


def test_content_streams_with_its_thoughts(client, truth, words):
    asked = {"model": "sim", "contents": "how fast is this"}
    chunks = list(client.models.generate_content_stream(config=config(7, **THINKING), **asked))
    parts = [part for chunk in chunks for part in (chunk.candidates[0].content.parts or ())]
    assert "".join(part.text for part in parts if part.thought) == words(0, 2)
    assert "".join(part.text for part in parts if not part.thought).strip() == words(2, 7)
    usage = chunks[-1].usage_metadata
    assert (usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count) == (4, 5, 2)
    assert chunks[-1].candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
    row = truth(chunks[0].response_id)
    assert len(row["event_ns"]) == len(row["token_ns"]) == len(parts) == 7


def test_thoughts_that_nobody_asked_for_are_counted_alone(client, truth, words):
    chunks = list(client.models.generate_content_stream(model="sim", contents="x", config=config(5)))
    assert "".join(chunk.text or "" for chunk in chunks).strip() == words(2, 5)
    assert chunks[-1].usage_metadata.thoughts_token_count == 2
    assert len(truth(chunks[0].response_id)["event_ns"]) == 3


def test_content_that_does_not_stream(client, words):
    done = client.models.generate_content(model="sim", contents=["one two", "three"], config=config(4))
    assert done.text.strip() == words(2, 4)
    assert done.usage_metadata.total_token_count == 3 + 4


def test_a_function_is_called(client, truth):
    offered = config(5, tools=[types.Tool(function_declarations=[WEATHER])])
    chunks = list(client.models.generate_content_stream(model="sim", contents="rain?", config=offered))
    (call,) = (call for chunk in chunks for call in chunk.function_calls or ())
    assert (call.name, call.args) == ("weather", {"text": " w2 w3 w4"})
    row = truth(chunks[0].response_id)
    assert (len(row["event_ns"]), len(row["token_ns"])) == (1, 3)


def test_an_image_and_a_system_instruction_are_counted(client):
    image = types.Part.from_bytes(data=b"\x89PNG", mime_type="image/png")
    told = config(3, system_instruction="be brief")
    done = client.models.generate_content(model="sim", contents=["what is this", image], config=told)
    assert done.usage_metadata.prompt_token_count == 2 + 3 + 256


def test_vectors_models_and_counts(client):
    vectors = client.models.embed_content(model="sim", contents=["one", "two words"]).embeddings
    assert len(vectors) == 2
    assert client.models.count_tokens(model="sim", contents="one two").total_tokens == 2
    assert client.models.get(model="sim").name == "models/sim"


def test_errors_are_the_client_s_own(client, root):
    with pytest.raises(errors.ClientError, match="NOT_FOUND"):
        client.models.generate_content(model="gpt", contents="x")
    stranger = genai.Client(api_key="wrong", http_options=types.HttpOptions(base_url=root))
    with pytest.raises(errors.ClientError, match="UNAUTHENTICATED"):
        stranger.models.generate_content(model="sim", contents="x")
    stranger.close()
