"""`huggingface_hub`'s InferenceClient: text generation of TGI, and its chat."""

from collections.abc import Iterator

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, ValidationError

ASKED = [{"role": "user", "content": "how fast is this endpoint"}]


@pytest.fixture
def client(root: str) -> Iterator[InferenceClient]:
    with InferenceClient(model=root, token="s3cret") as client:
        yield client


def test_text_generation_streams_token_by_token(client, last_truth, words):
    stream = client.text_generation("one two three", max_new_tokens=6, stream=True, details=True)
    events = list(stream)
    assert "".join(event.token.text for event in events) == events[-1].generated_text == words(0, 6)
    assert (events[-1].details.finish_reason, events[-1].details.generated_tokens) == ("length", 6)
    row = last_truth()
    assert len(row["event_ns"]) == len(row["token_ns"]) == len(events) == 6


def test_the_path_of_its_own_for_streams_serves_the_same(root, words):
    with InferenceClient(model=f"{root}/generate_stream", token="s3cret") as client:
        assert "".join(client.text_generation("one", max_new_tokens=3, stream=True)) == words(0, 3)


def test_text_generation_that_does_not_stream(client, words):
    done = client.text_generation("one two three", max_new_tokens=4, details=True)
    assert done.generated_text == words(0, 4)
    assert done.details.generated_tokens == len(done.details.tokens) == 4


def test_its_chat_streams(client, truth, words):
    chunks = list(client.chat_completion(ASKED, model="sim", max_tokens=5, stream=True))
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert "".join(texts).strip() == words(2, 5)
    assert len(truth(chunks[0].id)["event_ns"]) == len(texts) + 2  # and the reasoning


def test_errors_are_the_client_s_own(client, root):
    with pytest.raises(ValidationError, match="cannot be empty"):
        client.text_generation("", max_new_tokens=1)
    with InferenceClient(model=root, token="wrong") as stranger, pytest.raises(HfHubHTTPError, match="401"):
        stranger.chat_completion(ASKED, model="sim")
