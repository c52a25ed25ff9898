"""Synthetic prompts of about N tokens: N common English words, which most tokenizers hold as one token each.

A server adds its chat template to that, and counts by its own tokenizer; the summary reports the server's count.
"""

import random
from typing import Final

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


def synthetic(tokens: int, randomness: random.Random) -> str:
    """`tokens` words with a space behind each but the last."""
    return " ".join(randomness.choices(WORDS, k=tokens))
