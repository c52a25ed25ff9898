"""What the vendors' clients make of a stream that breaks: an error event, and a 429 that says when to come back."""

import time
from collections.abc import Iterator

import anthropic
import ollama
import openai
import pytest
from google import genai
from google.genai import errors, types
from huggingface_hub import InferenceClient
from huggingface_hub.errors import GenerationError

from loadgen.simulator.process import Served, serve

ASKED = [{"role": "user", "content": "how fast"}]
GAVE_UP = "the engine gave up"


@pytest.fixture(scope="module")
def breaking() -> Iterator[str]:
    with serve("--step", "1ms", "--fault", "error-event", "--output-tokens", "6") as served:
        yield served.root


@pytest.fixture(scope="module")
def refusing() -> Iterator[Served]:
    """Every second request, more or less, is one too many."""
    with serve("--step", "1ms", "--fault", "error-429", "--fault-share", "0.5") as served:
        yield served


def test_openai_raises_after_what_came_before(breaking):
    with openai.OpenAI(base_url=f"{breaking}/v1", api_key="x", max_retries=0) as client:
        stream = client.chat.completions.create(model="sim", messages=ASKED, stream=True)
        with pytest.raises(openai.APIError, match=GAVE_UP):
            list(stream)
        events = list(client.responses.create(model="sim", input="x", stream=True))
        assert (events[-1].type, GAVE_UP in events[-1].response.error.message) == ("response.failed", True)


def test_anthropic_raises_its_overloaded_error(breaking):
    with anthropic.Anthropic(base_url=breaking, api_key="x", max_retries=0) as client:
        texts = []
        with (
            pytest.raises(anthropic.APIStatusError, match="overloaded_error"),
            client.messages.stream(model="sim", max_tokens=6, messages=ASKED) as stream,
        ):
            texts.extend(stream.text_stream)
    assert texts == ["w0", " w1", " w2"]


def test_ollama_raises_at_the_line_of_the_error(breaking):
    client = ollama.Client(host=breaking)
    with pytest.raises(ollama.ResponseError, match=GAVE_UP):
        list(client.chat(model="sim", messages=ASKED, stream=True))
    client._client.close()


def test_gemini_raises_at_the_chunk_of_the_error(breaking):
    client = genai.Client(api_key="x", http_options=types.HttpOptions(base_url=breaking))
    with pytest.raises(errors.APIError, match=GAVE_UP):
        list(client.models.generate_content_stream(model="sim", contents="x"))
    client.close()


def test_hugging_face_raises_its_generation_error(breaking):
    with InferenceClient(model=breaking) as client, pytest.raises(GenerationError, match=GAVE_UP):
        list(client.text_generation("x", max_new_tokens=6, stream=True))


def test_a_client_comes_back_when_it_was_told(refusing):
    with openai.OpenAI(base_url=refusing.url, api_key="x", max_retries=8) as client:
        began_s = time.monotonic()
        for _ in range(3):
            client.completions.create(model="sim", prompt="x", max_tokens=1)
    refusing.stop()
    rows = refusing.truth().to_pylist()
    statuses = [row["status"] for row in rows]
    assert statuses.count(200) == 3
    assert 429 in statuses
    assert time.monotonic() - began_s >= statuses.count(429)  # a second for each
