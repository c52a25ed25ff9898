"""Synthetic prompts of N tokens: common English words, which most tokenizers hold as one token each.

Without a tokenizer a word is taken for a token, and the summary reports the server's count beside what was wanted. With one
(`Lexicon`), the words are those that it holds as one token, and each text is encoded once more and topped up or cut until
it has exactly as many as wanted. A server adds its chat template to that.
"""

import random
from collections import Counter
from typing import Final

from loadgen.errors import UsageError
from loadgen.tokens import Tokenizer

# Four letters each, and common enough to be one token with its leading space in the usual vocabularies. 64 of them make
# six bits: they open each prompt as its nonce, and one length for all keeps Content-Length the same.
_NONCE_WORDS: Final = (
    "able area away baby back ball band bank base bear best bird blue boat body book "
    "born call card care case city club cold come cook cool dark data date days dead "
    "deal deep desk door down draw drop drug duty each east easy edge even ever face "
    "fact fall farm fast fear feel fire fish five food foot form four free full game"
)

_WORDS: Final = (
    "the of and to in is was for on that with as it by from at his an were are which this be had or "
    "not their one its new after but who two also first they have has her all there been when time only "
    "more some other about up out during into between most school over may later used known under made "
    "many state where year city these three would can such both season through while then including people "
    "world against part before name game house long number early until year team own work well following "
    "several place group life small large history music family water second line great public area day "
    "power town company north south west end near based form point song old head high light river system "
    "station law found home air four show land play war set member along service late each man set member "
    "because local order right story field book control local church community road village open class"
)

NONCE_WORDS: Final = tuple(_NONCE_WORDS.split())
WORDS: Final = tuple(_WORDS.split())


# Where a tokenizer knows no word as one token (bytes, characters), these fill what the words leave.
_FILLERS: Final = ("a", "e", "i", "o", "s", "t", ".", ",", "x")

_TRIES: Final = 10

_LONGEST_CHECKED: Final = 65_536
"""Tokens of a text that is encoded once more to be sure; a longer one is made of parts that were."""

_LEAST_WORDS: Final = 16
"""A tokenizer with fewer whole words than this has none to speak of."""


def synthetic(tokens: int, randomness: random.Random) -> str:
    """`tokens` words with a space behind each but the last."""
    return " ".join(randomness.choices(WORDS, k=tokens))


class Lexicon:
    """Words whose tokens are known; texts of exactly so many tokens are made of them."""

    def __init__(self, tokenizer: Tokenizer | None = None) -> None:
        self._tokenizer = tokenizer
        self.words: tuple[str, ...] = WORDS
        self.nonce_words: tuple[str, ...] = NONCE_WORDS
        self.nonce_tokens = 1
        """Of one word of the nonce, with the space behind it."""
        self._first_more = 0
        self._filler = " a"
        self.is_exact = True
        if tokenizer is not None:
            self._learn(tokenizer)

    def _learn(self, tokenizer: Tokenizer) -> None:
        costs = {word: self._cost(tokenizer, word) for word in dict.fromkeys(WORDS + NONCE_WORDS)}
        of_one = tuple(word for word in WORDS if costs[word] == 1)
        self.is_exact = len(of_one) >= _LEAST_WORDS
        self.words = of_one if self.is_exact else WORDS
        # One cost for all, or the nonce would change the prompt's length; and a power of two of them.
        usual = Counter(costs[word] for word in NONCE_WORDS).most_common(1)[0][0]
        fit = [word for word in NONCE_WORDS if costs[word] == usual]
        self.nonce_words = tuple(fit[: 1 << (len(fit).bit_length() - 1)])
        self.nonce_tokens = usual
        self._first_more = max(max(tokenizer.count(word) for word in self.nonce_words) - usual, 0)
        fillers = sorted(_FILLERS, key=lambda filler: (self._cost(tokenizer, filler), filler))
        self._filler = f" {of_one[0]}" if of_one else f" {fillers[0]}"
        if not of_one and self._cost(tokenizer, fillers[0]) > 1:
            self._filler = fillers[0]  # without a space

    @staticmethod
    def _cost(tokenizer: Tokenizer, word: str) -> int:
        """The tokens of a word within a text."""
        return max(tokenizer.count(f"the {word} the") - tokenizer.count("the the"), 1)

    def count(self, text: str) -> int:
        """The tokens of a text: by the tokenizer, or else its words."""
        return len(text.split()) if self._tokenizer is None else self._tokenizer.count(text)

    def nonce_that_fits(self, tokens: int, most: int) -> int:
        """How many words of a nonce, at most `most`, a prompt of so many tokens has room for."""
        if self._tokenizer is None:
            return min(most, tokens)
        # The first word, without a space before it, may cost more than the others; and a word is to follow.
        return min(most, max((tokens - self._first_more - 2 * self.nonce_tokens) // self.nonce_tokens, 0))

    @property
    def has_tokenizer(self) -> bool:
        """Whether counts are those of a tokenizer."""
        return self._tokenizer is not None

    def text(self, tokens: int, randomness: random.Random, before: str = "") -> str:
        """A text which, behind `before`, makes `tokens` tokens of the whole; "" where `before` has so many itself.

        Encoded again as often as it takes, at most 10 times. UsageError where no text comes out at that length.
        """
        opening = self.count(before.rstrip()) if before else 0
        return self.fitted(randomness.choices(self.words, k=max(tokens - opening, 0)), tokens, before)

    def fitted(self, words: list[str], tokens: int, before: str = "") -> str:
        """These words, cut or topped up at their end until they make `tokens` tokens with `before`. UsageError as above."""
        text = " ".join(words)
        tokenizer = self._tokenizer
        if tokenizer is None or (tokens > _LONGEST_CHECKED and self.is_exact):
            return text
        for _ in range(_TRIES):
            missing = tokens - tokenizer.count(before + text)
            if not missing and (text or not before):  # a space at the very end would be a token of its own
                return text
            if missing < 0:
                text = self._shorter(text, -missing)
            elif text or before:
                text += self._filler * missing
            else:
                text = (self._filler * missing).lstrip()
        if not before and tokens < 4:  # at the beginning, without a space before it, not every word is one token
            for word in (*self.words, *_FILLERS):
                if tokenizer.count(word) == tokens:
                    return word
        missing = tokens - tokenizer.count(before + text)
        raise UsageError(
            f"--tokenizer: no text of exactly {tokens} tokens can be made for it (the nearest has {tokens - missing}); "
            "allowed is another length, or a tokenizer with whole words"
        )

    def _shorter(self, text: str, tokens: int) -> str:
        """Without about so many tokens at its end, and rather a few too many."""
        assert self._tokenizer is not None
        words = text.split(" ")
        a_word = max(self._tokenizer.count(text) / len(words), 1.0)
        return " ".join(words[: max(len(words) - max(round(tokens / a_word), 1), 0)])

    def block(self, tokens: int, randomness: random.Random) -> list[str]:
        """Words that make about `tokens` tokens wherever they stand; exactly, one each, where `is_exact`."""
        if self.is_exact:
            return randomness.choices(self.words, k=tokens)
        return self.text(tokens, randomness).split(" ")
