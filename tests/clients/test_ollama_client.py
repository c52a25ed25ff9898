"""The official `ollama` package: chat, generate, embed, tags, thinking, tools, errors."""

from collections.abc import Iterator

import ollama
import pytest

ASKED = [{"role": "user", "content": "how fast is this endpoint"}]
SHORT = {"num_predict": 6}


def weather(text: str) -> str:
    """Tell the weather.

    Args:
      text: where
    """
    return text


@pytest.fixture
def client(root: str) -> Iterator[ollama.Client]:
    client = ollama.Client(host=root, headers={"authorization": "Bearer s3cret"})
    yield client
    client._client.close()  # it has no way of its own to close before Python ends


def test_a_chat_streams(client, last_truth, words):
    lines = list(client.chat(model="sim", messages=ASKED, stream=True, options=SHORT))
    outputs = [line for line in lines if line.message.content or line.message.thinking]
    assert "".join(line.message.thinking or "" for line in outputs) == words(0, 2)
    assert "".join(line.message.content for line in outputs).strip() == words(2, 6)
    last = lines[-1]
    assert (last.done_reason, last.prompt_eval_count, last.eval_count) == ("length", 5, 6)
    assert 0 < last.eval_duration < last.total_duration
    row = last_truth()
    assert len(row["event_ns"]) == len(row["token_ns"]) == len(outputs) == 6


def test_thinking_can_be_switched_off(client, words):
    done = client.chat(model="sim", messages=ASKED, think=False, options=SHORT)
    assert (done.message.content, done.message.thinking) == (words(0, 6), None)


def test_generate_streams(client, last_truth, words):
    lines = list(client.generate(model="sim", prompt="one two", system="be brief", stream=True, options=SHORT))
    outputs = [line for line in lines if line.response or line.thinking]
    assert "".join(line.response for line in outputs).strip() == words(2, 6)
    assert lines[-1].prompt_eval_count == 4
    assert len(last_truth()["event_ns"]) == len(outputs)


def test_a_tool_call_comes_whole_with_all_its_tokens(client, last_truth):
    lines = list(client.chat(model="sim", messages=ASKED, tools=[weather], stream=True, think=False, options=SHORT))
    (call,) = (call for line in lines for call in line.message.tool_calls or ())
    assert (call.function.name, call.function.arguments) == ("weather", {"text": "w0 w1 w2 w3 w4 w5"})
    row = last_truth()
    assert (len(row["event_ns"]), len(row["token_ns"])) == (1, 6)


def test_vectors_are_made(client):
    done = client.embed(model="sim", input=["one", "two words"])
    assert len(done.embeddings) == 2
    assert done.prompt_eval_count == 3


def test_the_model_is_listed_with_its_tag_and_found_by_it(client):
    assert [model.model for model in client.list().models] == ["sim:latest"]
    assert client.generate(model="sim:latest", prompt="x", options={"num_predict": 1}).eval_count == 1
    assert client.show("sim").capabilities


def test_errors_are_the_client_s_own(client):
    with pytest.raises(ollama.ResponseError, match="not found") as error:
        client.chat(model="gpt", messages=ASKED)
    assert error.value.status_code == 404
