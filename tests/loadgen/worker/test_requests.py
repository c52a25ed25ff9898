import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.plan import PromptPool
from loadgen.worker.requests import STAGE_SHIFT, RequestMaker

WORDS = tuple(f"w{i:02} ".encode() for i in range(64))
BODIES = tuple((b'{"prompt":"', b'text %d"}' % i) for i in range(5))


def maker(nonce_words: int = 7, seed: int = 0, vocabulary: tuple[bytes, ...] = WORDS) -> RequestMaker:
    return RequestMaker(PromptPool(b"POST / HTTP/1.1", BODIES, vocabulary, nonce_words, seed))


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
    head, _, body = maker(nonce_words, seed).request(number).partition(b"\r\n\r\n")
    assert head == b"POST / HTTP/1.1\r\nContent-Length: %d" % len(body)
    assert body.endswith(BODIES[number % 5][1])


def test_a_request_is_the_same_in_every_worker():
    one, other = maker(seed=3), maker(seed=3)
    ids = [stage << STAGE_SHIFT | number for stage in (0, 1023) for number in range(50)]
    assert [one.request(number) for number in ids] == [other.request(number) for number in reversed(ids)][::-1]


def test_a_vocabulary_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="must hold a power of two of words, not 63"):
        maker(vocabulary=WORDS[:63])
