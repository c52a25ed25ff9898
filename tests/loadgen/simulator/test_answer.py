"""How long answers are, what they are, and how they end."""

from collections import Counter

import pytest
import worded

from loadgen.simulator.answer import Answer, Part, answer_to
from loadgen.simulator.ask import Refusal, Rules, Wants

PLAIN = Wants(True, ["a", "b"], reasoning="shown", may_call=True, may_refuse=True)


def answer(wants: Wants = PLAIN, rules: Rules | None = None, seed: int = 0) -> Answer:
    return answer_to(wants, rules or Rules(), worded.draws(seed), "x-1")


def test_the_limit_of_the_request_is_the_length_of_the_answer():
    assert answer().output_tokens == 128
    assert answer(rules=Rules(default_output_tokens=7)).output_tokens == 7
    assert answer(PLAIN._replace(limit=9)).output_tokens == 9
    assert answer(PLAIN._replace(limit=9)).finish == "length"


def test_an_answer_may_stop_early_unless_eos_is_ignored():
    rules = Rules(eos_share=0.1)
    wants = PLAIN._replace(limit=50)
    said = [answer(wants, rules, seed) for seed in range(400)]
    assert {one.finish for one in said if one.output_tokens < 50} == {"stop"}
    assert 1 <= min(one.output_tokens for one in said) < max(one.output_tokens for one in said) <= 50
    # Geometric with 0.1, cut at 50: the mean is (1 - 0.9 ** 50) / 0.1 = 9.95.
    assert sum(one.output_tokens for one in said) / 400 == pytest.approx(9.95, abs=1.5)
    full = answer(wants._replace(ignore_eos=True), rules)
    assert (full.output_tokens, full.finish) == (50, "length")
    assert answer(wants._replace(least=50), rules).output_tokens == 50
    assert answer(PLAIN, Rules(eos_share=1)).output_tokens == 1


def test_reasoning_comes_first_where_it_has_a_place():
    rules = Rules(reasoning_tokens=3)
    shown = answer(PLAIN._replace(limit=5), rules)
    assert shown.parts == (Part("reasoning", 0, 3), Part("content", 3, 5))
    assert shown.reasoning_tokens == 3
    hidden = answer(PLAIN._replace(limit=5, reasoning="hidden"), rules)
    assert (hidden.parts[0].kind, hidden.reasoning_tokens) == ("hidden", 3)
    assert answer(PLAIN._replace(limit=5, reasoning="none"), rules).parts == (Part("content", 0, 5),)
    assert answer(PLAIN._replace(limit=2), rules).parts == (Part("reasoning", 0, 2),)


def kind(said: Answer) -> str:
    return said.parts[-1].kind


def test_a_tool_that_is_offered_is_called_unless_a_share_is_given():
    offered = PLAIN._replace(tools=("weather", "other"))
    assert (kind(answer(offered)), answer(offered).tool, answer(offered).finish) == ("tool", "weather", "tool")
    assert kind(answer()) == "content"
    assert kind(answer(offered._replace(may_call=False))) == "content"
    assert kind(answer(offered, Rules(tool_call_share=0))) == "content"
    assert kind(answer(offered._replace(must_call=True), Rules(tool_call_share=0))) == "tool"
    made_up = answer(PLAIN, Rules(tool_call_share=1))
    assert (kind(made_up), made_up.tool) == ("tool", "lookup")


@pytest.mark.parametrize(
    ("rules", "expected"), [(Rules(tool_call_share=0.3), "tool"), (Rules(refusal_share=0.3), "refusal")]
)
def test_a_share_of_the_answers_is_of_another_kind(rules, expected):
    kinds = Counter(kind(answer(PLAIN, rules, seed)) for seed in range(600))
    assert set(kinds) == {expected, "content"}
    assert kinds[expected] / 600 == pytest.approx(0.3, abs=0.06)


def test_the_kind_of_an_answer_does_not_change_its_length():
    plain, mixed = (
        [answer(PLAIN, Rules(eos_share=0.1, refusal_share=share), seed).output_tokens for seed in range(50)]
        for share in (0, 0.5)
    )
    assert plain == mixed


def test_what_does_not_fit_into_the_context_is_refused():
    rules = Rules(max_model_len=10)
    assert answer(PLAIN._replace(limit=8), rules).output_tokens == 8
    with pytest.raises(Refusal, match="maximum context length is 10 tokens") as refusal:
        answer(PLAIN._replace(limit=9), rules)
    assert refusal.value.status == 400


def test_vectors_have_no_output_tokens():
    said = answer(PLAIN._replace(embeds=True))
    assert (said.output_tokens, said.parts, said.prompt_tokens) == (0, (), 2)
