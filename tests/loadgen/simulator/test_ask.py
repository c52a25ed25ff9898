import json
import random

import pytest

from loadgen.simulator.ask import Ask, Refusal, Rules, read_ask

CHAT = {"model": "sim", "messages": [{"role": "user", "content": "a b"}]}
TEXT = {"model": "sim", "prompt": "a b c"}


def ask(dialect: str, wants: object, rules: Rules | None = None, seed: int = 0) -> Ask:
    return read_ask(dialect, json.dumps(wants).encode(), rules or Rules(), random.Random(seed))


@pytest.mark.parametrize(
    ("dialect", "wants", "tokens"),
    [
        ("chat", CHAT, 2),
        (
            "chat",
            {**CHAT, "messages": [{"role": "system", "content": " x\n y\tz "}, {"role": "user", "content": "q"}]},
            4,
        ),
        (
            "chat",
            {
                **CHAT,
                "messages": [{"role": "user", "content": [{"type": "text", "text": "a b"}, {"type": "image_url"}]}],
            },
            2,
        ),
        ("chat", {**CHAT, "messages": [{"role": "assistant", "content": None}]}, 0),
        ("completions", TEXT, 3),
        ("completions", {**TEXT, "prompt": ["a b"]}, 2),
        ("completions", {**TEXT, "prompt": [5, 6, 7, 8]}, 4),
        ("completions", {**TEXT, "prompt": [[5, 6]]}, 2),
        ("completions", {**TEXT, "prompt": ""}, 0),
    ],
)
def test_prompt_tokens_are_words_or_ids(dialect, wants, tokens):
    assert ask(dialect, wants).prompt_tokens == tokens


@pytest.mark.parametrize(
    ("dialect", "wants", "param"),
    [
        ("chat", {"messages": CHAT["messages"]}, "model"),
        ("chat", {"model": "sim"}, "messages"),
        ("chat", {**CHAT, "messages": []}, "messages"),
        ("chat", {**CHAT, "messages": ["hi"]}, "messages"),
        ("chat", {**CHAT, "messages": [{"content": 5}]}, "messages"),
        ("chat", {**CHAT, "n": 2}, "n"),
        ("chat", {**CHAT, "stream": "yes"}, "stream"),
        ("chat", {**CHAT, "stream_options": {"include_usage": True}}, "stream_options"),
        ("chat", {**CHAT, "stream": True, "stream_options": [1]}, "stream_options"),
        ("chat", {**CHAT, "max_tokens": 0}, "max_tokens"),
        ("chat", {**CHAT, "max_tokens": True}, "max_tokens"),
        ("chat", {**CHAT, "max_completion_tokens": 1.5}, "max_completion_tokens"),
        ("completions", {"model": "sim"}, "prompt"),
        ("completions", {**TEXT, "prompt": []}, "prompt"),
        ("completions", {**TEXT, "prompt": ["a", "b"]}, "prompt"),
        ("completions", {**TEXT, "prompt": [1, "b"]}, "prompt"),
    ],
)
def test_a_wrong_field_is_refused_by_name(dialect, wants, param):
    with pytest.raises(Refusal) as refusal:
        ask(dialect, wants)
    assert (refusal.value.status, refusal.value.param) == (400, param)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe{}", b"5"])
def test_a_body_that_is_no_json_object_is_refused(body):
    with pytest.raises(Refusal, match="JSON"):
        read_ask("chat", body, Rules(), random.Random(0))


def test_another_model_is_not_found():
    with pytest.raises(Refusal) as refusal:
        ask("chat", {**CHAT, "model": "gpt"})
    assert (refusal.value.status, refusal.value.code) == (404, "model_not_found")


def test_the_limit_of_the_request_is_the_length_of_the_answer():
    assert ask("chat", CHAT).output_tokens == 128
    assert ask("chat", CHAT, Rules(default_output_tokens=7)).output_tokens == 7
    assert ask("chat", {**CHAT, "max_tokens": 9}).output_tokens == 9
    assert ask("chat", {**CHAT, "max_tokens": 9, "max_completion_tokens": 11}).output_tokens == 11
    assert ask("chat", {**CHAT, "max_tokens": None}).finish_reason == "length"


def test_an_answer_may_stop_early_unless_eos_is_ignored():
    rules = Rules(eos_share=0.1)
    asked = [ask("chat", {**CHAT, "max_tokens": 50}, rules, seed) for seed in range(400)]
    assert {answer.finish_reason for answer in asked if answer.output_tokens < 50} == {"stop"}
    assert 1 <= min(answer.output_tokens for answer in asked) < max(answer.output_tokens for answer in asked) <= 50
    # Geometric with 0.1, cut at 50: the mean is (1 - 0.9 ** 50) / 0.1 = 9.95.
    assert sum(answer.output_tokens for answer in asked) / 400 == pytest.approx(9.95, abs=1.5)
    full = ask("chat", {**CHAT, "max_tokens": 50, "ignore_eos": True}, rules)
    assert (full.output_tokens, full.finish_reason) == (50, "length")
    assert ask("chat", {**CHAT, "max_tokens": 50, "min_tokens": 50}, rules).output_tokens == 50
    assert ask("chat", CHAT, Rules(eos_share=1)).output_tokens == 1


def test_continuous_usage_comes_with_usage_alone():
    def usage(**options: bool) -> tuple[bool, bool]:
        asked = ask("chat", {**CHAT, "stream": True, "stream_options": options})
        return asked.include_usage, asked.continuous_usage

    assert usage(include_usage=True) == (True, False)
    assert usage(include_usage=True, continuous_usage_stats=True) == (True, True)
    assert usage(continuous_usage_stats=True) == (False, False)
