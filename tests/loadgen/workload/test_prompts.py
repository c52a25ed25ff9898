import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizer import made_tokenizer

from loadgen.errors import UsageError
from loadgen.tokens import load
from loadgen.workload.prompts import Lexicon


@pytest.fixture(scope="module")
def lexicon(tokenizer_file):
    return Lexicon(load(str(tokenizer_file)))


@settings(deadline=None)
@given(
    tokens=st.integers(1, 700), seed=st.integers(0, 99), opening=st.sampled_from(["", "able area ", "able able able "])
)
def test_a_prompt_has_exactly_the_tokens_asked_for_when_it_is_encoded_again(lexicon, tokens, seed, opening):
    before = opening if lexicon.count(opening) < tokens else ""
    text = before + lexicon.text(tokens, random.Random(seed), before)
    assert lexicon.count(text) == tokens
    assert lexicon.count(text.encode().decode()) == tokens


@pytest.mark.parametrize("vocabulary", [256, 300, 500])
@pytest.mark.parametrize("tokens", [8, 33, 512])
def test_a_tokenizer_without_whole_words_is_met_exactly_too(tmp_path, vocabulary, tokens):
    lexicon = Lexicon(load(str(made_tokenizer(tmp_path / "t.json", vocabulary))))
    assert lexicon.count(lexicon.text(tokens, random.Random(3))) == tokens


def test_the_words_of_a_nonce_cost_all_the_same(tmp_path, lexicon):
    for one in (lexicon, Lexicon(load(str(made_tokenizer(tmp_path / "t.json", 330))))):
        assert len(one.nonce_words).bit_count() == 1
        lengths = {one.count(f"the {word} the") for word in one.nonce_words}
        assert len(lengths) == 1


def test_blocks_of_whole_words_may_be_joined_and_cut_anywhere(lexicon):
    assert lexicon.is_exact
    words = [word for n in range(5) for word in lexicon.block(64, random.Random(n))]
    for cut in (1, 63, 64, 65, 200, 320):
        # The first word has no space before it, which some tokenizers count as a token more.
        assert abs(lexicon.count(" ".join(words[:cut])) - cut) <= 1


def test_without_a_tokenizer_a_word_is_a_token():
    text = Lexicon().text(40, random.Random(1))
    assert len(text.split()) == Lexicon().count(text) == 40
    assert len(["a", "b", *Lexicon().text(40, random.Random(1), "a b ").split()]) == 40


def test_a_length_that_no_text_has_is_refused(tokenizer_file):
    class Odd:
        """Two tokens a character."""

        def encode(self, text: str) -> list[int]:
            return [half for character in text for half in divmod(ord(character), 2)]

        def count(self, text: str) -> int:
            return len(self.encode(text))

    with pytest.raises(UsageError, match="no text of exactly 7 tokens can be made"):
        Lexicon(Odd()).text(7, random.Random(1))
