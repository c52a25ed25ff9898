from hypothesis import given
from hypothesis import strategies as st

from loadgen.simulator.engine import Engine, EngineParameters, Sequence
from loadgen.simulator.prefix_cache import BLOCK_TOKENS, PrefixCache, blocks_of

TOKENS = st.lists(st.sampled_from("abc"), max_size=80)


def words(start: int, count: int) -> list[int]:
    return list(range(start, start + count))


@given(TOKENS, TOKENS, TOKENS)
def test_prompts_share_their_whole_common_blocks_and_no_more(shared, one, other):
    # The markers keep the rests from being alike.
    first, second = ([*shared, marker, *rest] for marker, rest in (("x", one), ("y", other)))
    pairs = zip(blocks_of(first), blocks_of(second), strict=False)
    assert sum(a == b for a, b in pairs) == len(shared) // BLOCK_TOKENS
    assert len(blocks_of(first)) == len(first) // BLOCK_TOKENS


def test_the_same_block_behind_another_beginning_is_another_block():
    tail = words(100, 16)
    first, second = blocks_of([*words(0, 16), *tail]), blocks_of([*words(50, 16), *tail])
    assert not set(first) & set(second)


def test_salts_keep_prompts_apart():
    assert not set(blocks_of(words(0, 64), "a")) & set(blocks_of(words(0, 64), "b"))


def test_the_last_token_of_a_prompt_is_always_computed():
    cache = PrefixCache(1000)
    blocks = blocks_of(words(0, 64))
    assert cache.take(blocks, 64) == 0
    assert cache.take(blocks, 64) == 48
    assert cache.take(blocks_of(words(0, 65)), 65) == 64
    assert (cache.queried_tokens, cache.hit_tokens) == (193, 112)


def test_an_answer_is_cached_for_the_turn_that_quotes_it():
    cache = PrefixCache(1000)
    conversation = words(0, 100)
    cache.take(blocks_of(conversation[:40]), 40)
    assert cache.take(blocks_of(conversation), 100) == 32
    cache.put(blocks_of(words(200, 64)))
    assert cache.take(blocks_of([*words(200, 64), 1]), 65) == 64


def test_what_was_used_longest_ago_goes_first():
    cache = PrefixCache(8 * BLOCK_TOKENS)
    a, b, c = (blocks_of(words(start, 64)) for start in (0, 1000, 2000))  # four blocks each
    cache.take(a, 65)
    cache.take(b, 65)
    assert cache.take(a, 65) == 64
    cache.take(c, 65)  # takes the place of b
    assert cache.take(b, 65) == 0
    cache.clear()
    assert cache.take(b, 65) == 0


@given(st.integers(0, 10), st.lists(st.integers(0, 4), max_size=20))
def test_a_cache_never_holds_more_than_its_capacity(capacity_blocks, prompts):
    cache = PrefixCache(capacity_blocks * BLOCK_TOKENS)
    for number in prompts:
        length = 16 * (number + 1) + 1
        cached = cache.take(blocks_of(words(number * 1000, length)), length)
        assert cached <= min(length - 1, capacity_blocks * BLOCK_TOKENS)
    assert len(cache._blocks) <= capacity_blocks


def test_cached_tokens_skip_prefill():
    engine: Engine[Sequence] = Engine(EngineParameters(prefill_tokens_per_s=1000, prefix_cache_tokens=10_000), 0)
    blocks = blocks_of(words(0, 160))
    first, second = (Sequence(161, 1, blocks) for _ in range(2))
    engine.submit(first, 0)
    engine.submit(second, 0)
    assert (first.cached_tokens, second.cached_tokens) == (0, 160)
    assert first.ready_ns == 161_000_000
    assert second.ready_ns == 162_000_000  # behind the first, and one token of its own
    assert Sequence(161, 1).cached_tokens == 0
