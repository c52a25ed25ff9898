"""Whatever a server sends: a dialect reads it, or raises what is in MALFORMED, and never lets through what cannot be
kept."""

import contextlib
import json

import pytest
from cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.dialects import DIALECTS
from loadgen.dialects.answer import CONTENT, MAX_WORDS, NOTHING, REASONING, TOOL, Answer
from loadgen.dialects.dialect import MALFORMED


def keys_of(value: object) -> set[str]:
    """Every key in a JSON value."""
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


def payloads_of(api: str) -> list[object]:
    """The JSON that this API's fixtures consist of."""
    found = []
    for case in CASES.values():
        if case.api == api:
            for line in case.body.decode().splitlines():
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line.partition("data:")[2] if line.startswith("data:") else line))
    return [one for one in found if isinstance(one, dict)]


KNOWN = {api: payloads_of(api) for api in sorted({case.api for case in CASES.values()})}
LEAVES = st.sampled_from(
    [None, True, False, 0, -1, 7, 0.5, 2**31 - 1, 2**31, 10**30, "", "a", "é", [], {}, [1], ["a"], {"type": "text"}]
)


def hostile(api: str) -> st.SearchStrategy[object]:
    """JSON with this API's keys in any place."""
    keys = st.sampled_from(sorted(keys_of(KNOWN[api])))
    inner = LEAVES | st.dictionaries(keys, LEAVES, max_size=3)
    return inner | st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3)


HOSTILE = {api: hostile(api) for api in KNOWN}


def mutated(draw, value: object, api: str) -> object:
    """An event of the fixtures with something else in one place."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 4)) == 0:
        return draw(HOSTILE[api])
    places = list(value) if isinstance(value, dict) else list(range(len(value)))
    place = draw(st.sampled_from(places))
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place] = mutated(draw, value[place], api)
    return copy


def is_kept(answer: Answer) -> None:
    """Everything in the answer fits into its column."""
    for n in (answer.prompt_tokens, answer.output_tokens, answer.reasoning_tokens, answer.cached_tokens):
        assert n is None or (type(n) is int and 0 <= n < 1 << 31)
    assert answer.cumulative_tokens is None or 0 <= answer.cumulative_tokens < 1 << 32
    for text in (answer.response_id, answer.finish_reason):
        assert text is None or (isinstance(text, str) and len(text) <= 200)
    assert answer.error_words is None or (isinstance(answer.error_words, str) and len(answer.error_words) <= MAX_WORDS)


@pytest.mark.parametrize("api", KNOWN)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_hostile_events_raise_nothing_but_malformed(api, data):
    dialect, answer = DIALECTS[api], Answer()
    for _ in range(2):
        value = mutated(data.draw, data.draw(st.sampled_from(KNOWN[api])), api)
        payload = json.dumps(value).encode()
        with contextlib.suppress(MALFORMED):
            kind = dialect.read(payload, answer)
            assert kind in (NOTHING, CONTENT, REASONING, TOOL)
            if kind == CONTENT:
                dialect.text(payload)
        is_kept(answer)


@pytest.mark.parametrize("api", KNOWN)
@settings(max_examples=20)
@given(payload=st.binary(max_size=40))
def test_noise_raises_nothing_but_malformed(api, payload):
    with contextlib.suppress(MALFORMED):
        DIALECTS[api].read(payload, Answer())
