import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.dialects import chat, completions
from loadgen.dialects.dialect import Dialect
from loadgen.plan import PromptPool, Talk
from loadgen.worker.requests import STAGE_SHIFT, RequestMaker

HEAD = b"POST / HTTP/1.1"
WORDS = tuple(f"w{i:02} ".encode() for i in range(64))
BODIES = tuple((b'{"prompt":"', b'text %d"}' % i) for i in range(5))


TALK = Talk("m", "Be brief.", 16, True, tuple(f"say {i}" for i in range(5)), ("I see.", "Well."))


def maker(
    nonce_words: int = 7, seed: int = 0, vocabulary: tuple[bytes, ...] = WORDS, dialect: Dialect = chat.DIALECT
) -> RequestMaker:
    return RequestMaker(PromptPool(BODIES, vocabulary, nonce_words, seed, TALK), dialect)


@given(st.integers(0, (1 << 63) - 1), st.lists(st.integers(0, (1 << 42) - 1), unique=True, max_size=200))
def test_each_id_has_a_nonce_of_its_own(seed, ids):
    made = maker(seed=seed)
    assert len({made.nonce(number) for number in ids}) == len(ids)


@given(st.integers(0, 1 << 62))
def test_a_short_nonce_goes_through_all_its_words_before_one_comes_again(seed):
    made = maker(nonce_words=1, seed=seed)
    assert {made.nonce(number) for number in range(64)} == set(WORDS)


@given(st.integers(0, (1 << 42) - 2), st.integers(0, 1 << 62))
def test_neighbours_differ_from_the_first_word_on(number, seed):
    made = maker(seed=seed)
    assert made.nonce(number)[:4] != made.nonce(number + 1)[:4]


@given(st.integers(0, (1 << 42) - 1), st.integers(0, 1 << 62), st.sampled_from([1, 3, 7]))
def test_every_request_has_the_length_that_its_head_says(number, seed, nonce_words):
    head, _, body = maker(nonce_words, seed).request(HEAD, number).partition(b"\r\n\r\n")
    assert head == HEAD + b"\r\nContent-Length: %d" % len(body)
    assert body.endswith(BODIES[number % 5][1])


def test_a_request_is_the_same_in_every_worker():
    one, other = maker(seed=3), maker(seed=3)
    ids = [stage << STAGE_SHIFT | number for stage in (0, 1023) for number in range(50)]
    assert [one.request(HEAD, number) for number in ids] == [other.request(HEAD, number) for number in reversed(ids)][
        ::-1
    ]


def test_a_vocabulary_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="must hold a power of two of words, not 63"):
        maker(vocabulary=WORDS[:63])


# sessions

# No JSON that the decoder takes holds half a character.
TEXTS = st.text(st.characters(codec="utf-8"))
HISTORIES = st.lists(st.tuples(TEXTS, TEXTS), max_size=4)


@given(
    number=st.integers(0, (1 << 42) - 1),
    history=HISTORIES,
    dialect=st.sampled_from([chat.DIALECT, completions.DIALECT]),
)
def test_a_later_turn_is_whole_and_says_what_its_head_says(number, history, dialect):
    made = maker(dialect=dialect)
    head, _, body = made.turn(HEAD, number, history).partition(b"\r\n\r\n")
    assert head == HEAD + b"\r\nContent-Length: %d" % len(body)
    asked = json.loads(body)
    assert (asked["model"], asked["max_tokens"], asked["stream"], asked["ignore_eos"]) == ("m", 16, True, True)
    if dialect is chat.DIALECT:
        contents = [message["content"] for message in asked["messages"]]
        assert contents == ["Be brief.", *(text for pair in history for text in pair), made.prompt(number)]
    else:
        said = [question + answered for question, answered in history]
        assert asked["prompt"] == "\n\n".join(["Be brief.", *said, made.prompt(number)])


@given(number=st.integers(0, (1 << 42) - 1))
def test_what_a_user_says_opens_with_the_nonce_that_the_request_had(number):
    made = maker()
    assert made.prompt(number) == made.nonce(number).decode() + f"say {number % 5}"
    assert made.nonce(number) in made.request(HEAD, number)


def test_recorded_answers_go_round():
    assert [maker().answer(number) for number in range(3)] == ["I see.", "Well.", "I see."]


def test_what_a_session_shows_in_its_first_turn_is_quoted_in_the_later_ones():
    shown = tuple((f"https://h/{i}.png",) for i in range(3))
    made = RequestMaker(PromptPool(BODIES, WORDS, 7, 0, replace(TALK, images=shown)), chat.DIALECT)
    history = [("look", "I see"), ("and?", "more")]
    asked = json.loads(made.turn(HEAD, 7, history).partition(b"\r\n\r\n")[2])
    said = [message["content"] for message in asked["messages"] if message["role"] == "user"]
    assert said[0] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "https://h/2.png"}},
    ], "the first request of the session is number 5"
    assert said[1:] == ["and?", made.prompt(7)]
