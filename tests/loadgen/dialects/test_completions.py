import json

import pytest

from loadgen.dialects import completions
from loadgen.dialects.answer import CONTENT, NOTHING, Answer, Ask


def chunk(text: object, **fields: object) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": fields.pop("finish_reason", None), "logprobs": None}
    return json.dumps({"id": "x", "object": "text_completion", "choices": [choice], **fields}).encode()


@pytest.mark.parametrize(("text", "kind"), [("Hel", CONTENT), (" ", CONTENT), ("", NOTHING), (None, NOTHING)])
def test_text_is_output_and_the_empty_text_is_none(text, kind):
    assert completions.read(chunk(text), Answer()) == kind


def test_a_whole_stream_fills_the_answer():
    answer = Answer()
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    payloads = [
        chunk("Hel"),
        chunk("lo", finish_reason="length"),
        json.dumps({"choices": [], "usage": usage}).encode(),
        b"[DONE]",
    ]
    assert [completions.read(payload, answer) for payload in payloads] == [CONTENT, CONTENT, NOTHING, NOTHING]
    assert (answer.response_id, answer.finish_reason, answer.end_seen) == ("x", "length", True)
    assert (answer.prompt_tokens, answer.output_tokens) == (5, 2)


def test_a_hidden_token_still_counts_in_continuous_usage():
    answer = Answer()
    assert completions.read(chunk("", usage={"completion_tokens": 3}), answer) == NOTHING
    assert answer.cumulative_tokens == answer.output_tokens == 3


def test_an_error_event_is_kept_in_the_servers_words():
    answer = Answer()
    assert completions.read(b'{"error":{"message":"no"}}', answer) == NOTHING
    assert answer.error_words == "no"


def test_the_request_carries_the_plain_prompt():
    body = completions.DIALECT.body(Ask("m", "Once", 16, ignore_eos=False))
    assert (body["prompt"], body["max_tokens"], body["stream"]) == ("Once", 16, True)


def test_what_was_said_before_stands_before_the_prompt():
    ask = Ask("m", "third", 16, False, "Be brief.", (("first", " one"), ("second", " two")))
    assert completions.DIALECT.body(ask)["prompt"] == "Be brief.\n\nfirst one\n\nsecond two\n\nthird"


def test_a_turn_begins_with_the_turn_before_and_its_answer():
    """What a prefix cache has to find."""
    before = completions.DIALECT.body(Ask("m", "first", 16, False, "Be brief."))["prompt"]
    after = completions.DIALECT.body(Ask("m", "second", 16, False, "Be brief.", (("first", " one"),)))["prompt"]
    assert after.startswith(before + " one")


def test_the_text_of_a_content_event():
    assert completions.text(chunk("Hel")) == "Hel"
