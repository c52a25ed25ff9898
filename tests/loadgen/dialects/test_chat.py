import json

import pytest

from loadgen.dialects import chat
from loadgen.dialects.answer import CONTENT, NOTHING, REASONING, TOOL, Answer, Ask


def chunk(delta: object = None, **fields: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": fields.pop("finish_reason", None)}
    return json.dumps({"id": "c1", "object": "chat.completion.chunk", "choices": [choice], **fields}).encode()


@pytest.mark.parametrize(
    ("delta", "kind"),
    [
        ({"role": "assistant", "content": ""}, NOTHING),
        ({"role": "assistant"}, NOTHING),
        ({"role": "assistant", "content": None}, NOTHING),
        ({}, NOTHING),
        (None, NOTHING),
        ({"content": ""}, NOTHING),
        ({"content": "Hel"}, CONTENT),
        ({"content": " "}, CONTENT),
        ({"role": "assistant", "content": "Hel"}, CONTENT),
        ({"content": [{"type": "text", "text": "Hel"}]}, CONTENT),
        ({"refusal": "I cannot"}, CONTENT),
        ({"reasoning_content": "hm"}, REASONING),
        ({"reasoning": "hm"}, REASONING),
        ({"content": None, "reasoning": "hm"}, REASONING),
        ({"reasoning": ""}, NOTHING),
        ({"tool_calls": [{"index": 0, "id": "t1", "function": {"name": "f", "arguments": ""}}]}, TOOL),
        ({"tool_calls": [{"function": {"arguments": "{"}}]}, TOOL),
        ({"tool_calls": []}, NOTHING),
        ({"function_call": {"arguments": "{"}}, TOOL),
    ],
)
def test_what_a_delta_carries(delta, kind):
    assert chat.read(chunk(delta), Answer()) == kind


def test_empty_choices_are_no_output():
    answer = Answer()
    azure = b'{"id":"","choices":[],"prompt_filter_results":[{"prompt_index":0}]}'
    assert chat.read(azure, answer) == NOTHING
    assert (answer.error_words, answer.output_tokens) == (None, None)


def test_a_choice_without_a_delta_is_no_output():
    assert chat.read(b'{"choices":[{"index":0,"content_filter_results":{}}]}', Answer()) == NOTHING


def test_the_first_id_is_kept():
    answer = Answer()
    chat.read(chunk({"content": "a"}), answer)
    chat.read(chunk({"content": "b"}, id="other"), answer)
    assert answer.response_id == "c1"


def test_the_end_sign_and_the_finish_reason_are_seen():
    answer = Answer()
    assert chat.read(b"[DONE]", answer) == NOTHING
    assert (answer.end_seen, answer.finish_reason) == (True, None)
    assert chat.read(chunk({}, finish_reason="tool_calls"), answer) == NOTHING
    assert answer.finish_reason == "tool_calls"


def test_a_finish_chunk_may_carry_output():
    answer = Answer()
    assert chat.read(chunk({"content": "end"}, finish_reason="stop"), answer) == CONTENT
    assert answer.finish_reason == "stop"


USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 20,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 7},
}


def counts(answer: Answer) -> tuple[int | None, ...]:
    return answer.prompt_tokens, answer.output_tokens, answer.reasoning_tokens, answer.cached_tokens


def test_the_usage_chunk_is_read():
    answer = Answer()
    assert chat.read(json.dumps({"id": "c1", "choices": [], "usage": USAGE}).encode(), answer) == NOTHING
    assert counts(answer) == (9, 20, 7, 8)


def test_sglang_counts_reasoning_at_the_top():
    answer = Answer()
    usage = {"prompt_tokens": 9, "completion_tokens": 20, "reasoning_tokens": 7, "prompt_tokens_details": None}
    chat.read(json.dumps({"choices": [], "usage": usage}).encode(), answer)
    assert counts(answer) == (9, 20, 7, None)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "completion_tokens": None}])
def test_usage_without_numbers_says_nothing_and_undoes_nothing(usage):
    answer = Answer()
    chat.read(chunk({"content": "a"}, usage=usage), answer)
    assert counts(answer) == (None,) * 4
    assert answer.cumulative_tokens is None
    chat.read(chunk({"content": "a"}, usage=USAGE), answer)
    chat.read(chunk({"content": "a"}, usage=usage), answer)
    assert counts(answer) == (9, 20, 7, 8)
    assert answer.cumulative_tokens is None


def test_continuous_usage_tells_the_tokens_so_far():
    answer = Answer()
    for so_far in (0, 1, 4):
        chat.read(chunk({"content": "a"}, usage={"prompt_tokens": 9, "completion_tokens": so_far}), answer)
        assert answer.cumulative_tokens == so_far
    assert answer.output_tokens == 4


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b'{"error":{"message":"out of memory","type":"x","code":500}}', "out of memory"),
        (b'{"error":"plain words"}', "plain words"),
        (b'{"error":{"type":"overloaded"}}', "overloaded"),
        (chunk({}, finish_reason="error", error={"message": "upstream"}), "upstream"),
    ],
)
def test_an_error_event_is_kept_in_the_servers_words(payload, words):
    answer = Answer()
    assert chat.read(payload, answer) == NOTHING
    assert answer.error_words == words


def test_the_request_asks_for_a_stream_with_usage():
    body = chat.DIALECT.body(Ask("m", "Say something.", 128, ignore_eos=True))
    assert body["messages"] == [{"role": "user", "content": "Say something."}]
    assert (body["stream"], body["stream_options"], body["ignore_eos"]) == (True, {"include_usage": True}, True)
    assert "ignore_eos" not in chat.DIALECT.body(Ask("m", "p", 1, ignore_eos=False))


def test_what_was_said_before_stands_before_the_prompt():
    ask = Ask("m", "third", 16, False, "Be brief.", (("first", "one"), ("second", "two")))
    assert [(message["role"], message["content"]) for message in chat.DIALECT.body(ask)["messages"]] == [
        ("system", "Be brief."),
        ("user", "first"),
        ("assistant", "one"),
        ("user", "second"),
        ("assistant", "two"),
        ("user", "third"),
    ]


@pytest.mark.parametrize(
    ("delta", "said"),
    [
        ({"content": "Hel"}, "Hel"),
        ({"role": "assistant", "content": " "}, " "),
        ({"content": None, "refusal": "I cannot"}, "I cannot"),
        ({"content": "", "refusal": "No"}, "No"),
        ({"content": "a", "reasoning": "hm"}, "a"),
    ],
)
def test_the_text_of_a_content_event(delta, said):
    assert chat.read(chunk(delta), Answer()) == CONTENT
    assert chat.text(chunk(delta)) == said


def test_a_bool_is_no_count():
    answer = Answer()
    chat.read(b'{"choices":[],"usage":{"completion_tokens":true}}', answer)
    assert answer.output_tokens is None
