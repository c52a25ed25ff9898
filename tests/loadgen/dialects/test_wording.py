"""The user's own changes to what a dialect asks."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.dialects import DIALECTS, spoken
from loadgen.dialects.answer import Ask
from loadgen.dialects.dialect import filled, merged, nested
from loadgen.errors import UsageError
from loadgen.wording import Wording

ASK = Ask("m", "Say {model}.", 16, False, "Be brief.")
TOOL = {"type": "function", "function": {"name": "f"}}


def body(api: str = "chat", ask: Ask = ASK, **changes: Any) -> dict[str, Any]:
    return spoken(Wording(api, **changes)).body(ask)


def test_without_changes_a_dialect_speaks_as_it_does():
    for api, dialect in DIALECTS.items():
        assert body(api) == dialect.body(ASK)


def test_usage_is_asked_for_at_the_end_in_every_event_or_never():
    assert body()["stream_options"] == {"include_usage": True}
    assert body(usage="continuous")["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert "stream_options" not in body(usage="none")
    assert body("messages", usage="none") == body("messages")
    with pytest.raises(
        UsageError, match=r"^--usage: the messages API knows no continuous usage; allowed is final or none$"
    ):
        body("messages", usage="continuous")


def test_token_ids_are_asked_for_where_they_can_be():
    assert body("completions", token_ids=True)["return_token_ids"] is True
    with pytest.raises(UsageError, match=r"^--return-token-ids: the gemini API returns none; leave it out$"):
        body("gemini", token_ids=True)


def test_one_of_several_inputs_is_for_embeddings():
    assert len(body("embeddings", inputs=2)["input"]) == 2
    with pytest.raises(UsageError, match=r"^--inputs: the chat API takes one prompt a request"):
        body(inputs=2)


def test_the_limit_on_tokens_may_have_another_name():
    asked = body(max_tokens_field="max_completion_tokens")
    assert (asked["max_completion_tokens"], "max_tokens" in asked) == (16, False)
    asked = body("tgi", max_tokens_field="parameters.most")
    assert asked["parameters"] == {"most": 16, "details": True, "do_sample": False}
    asked = body("ollama", max_tokens_field="n")
    assert (asked["n"], asked["options"]) == (16, {"temperature": 0})
    assert body("embeddings", max_tokens_field="n") == body("embeddings"), "there is none"


def test_tools_are_offered_in_every_request():
    assert body(tools=(TOOL,))["tools"] == [TOOL]
    assert body(ask=Ask("m", "p", 1, False, tools=({"function": {"name": "mine"}},)), tools=(TOOL,))["tools"] != [TOOL]
    with pytest.raises(UsageError, match=r"^--tools: the completions API"):
        body("completions", tools=(TOOL,))


def test_fields_are_merged_and_null_takes_one_out():
    asked = body(extra={"temperature": None, "top_p": 0.5, "stream_options": {"more": 1}})
    assert "temperature" not in asked
    assert asked["top_p"] == 0.5
    assert asked["stream_options"] == {"include_usage": True, "more": 1}
    last = Ask("m", "p", 1, False, extra={"top_p": 0.9, "stream_options": {"more": None}})
    asked = body(ask=last, extra={"top_p": 0.5, "stream_options": {"more": 1}})
    assert (asked["top_p"], asked["stream_options"]) == (0.9, {"include_usage": True}), "the request's own come last"


LEAVES = st.none() | st.integers(0, 3)
INNER = LEAVES | st.dictionaries(st.sampled_from("ab"), LEAVES, max_size=2)
OBJECTS = st.dictionaries(st.sampled_from("abc"), INNER | st.dictionaries(st.sampled_from("ab"), INNER, max_size=2))


@given(body=OBJECTS, changes=OBJECTS)
def test_merging_follows_the_standard_and_changes_nothing_in_place(body, changes):
    def by_the_book(target: Any, patch: Any) -> Any:  # RFC 7396, section 2
        if not isinstance(patch, dict):
            return patch
        target = dict(target) if isinstance(target, dict) else {}
        for name, value in patch.items():
            if value is None:
                target.pop(name, None)
            else:
                target[name] = by_the_book(target.get(name), value)
        return target

    before = json.dumps([body, changes])
    assert merged(body, changes) == by_the_book(body, changes)
    assert json.dumps([body, changes]) == before


def test_dots_lead_into_objects():
    assert nested("a.b.c", 1) == {"a": {"b": {"c": 1}}}


# templates


def test_a_template_takes_the_place_of_the_body():
    template = {
        "inputs": "Q: {prompt}\nA:",
        "model_name": "{model}",
        "n": "{output_tokens}",
        "note": "up to {output_tokens} of {model}",
        "list": [1, None, {"s": "{system}"}],
        "braces": "{unknown} {}",
    }
    assert body(template=template) == {
        "inputs": "Q: Say {model}.\nA:",
        "model_name": "m",
        "n": 16,
        "note": "up to 16 of m",
        "list": [1, None, {"s": "Be brief."}],
        "braces": "{unknown} {}",
    }


def test_a_template_may_hold_the_conversation_and_images():
    template = {"chat": "{messages}", "pictures": "{images}"}
    ask = Ask("m", "p", 1, False, history=(("a", "b"),), images=("data:x",))
    asked = body(ask=ask, template=template)
    assert [message["role"] for message in asked["chat"]] == ["user", "assistant", "user"]
    assert asked["pictures"] == ["data:x"]


def test_fields_are_merged_into_a_template_too():
    assert body(template={"p": "{prompt}", "x": 1}, extra={"x": None, "y": 2}) == {"p": "Say {model}.", "y": 2}


@given(prompt=st.text(max_size=20))
def test_what_a_prompt_says_is_never_a_placeholder(prompt):
    assert filled({"p": "{prompt}"}, Ask("m", prompt, 1, False)) == {"p": prompt}
