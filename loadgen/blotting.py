"""Blotting secrets out of words that leave the process: servers like to quote the key that they refuse."""

import json
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

# Words are cut to a length before they come here, and half a key is a secret too; fewer characters are found in any text.
LEAST_SECRET: Final = 4

BLOT: Final = "***"


def blotted(words: str, secrets: Iterable[str]) -> str:
    """`words` with *** in place of every secret: as it is, percent-encoded, as in a JSON string, or cut by the words' end.

    What is shorter than LEAST_SECRET characters is a placeholder (vLLM takes any key), no secret, and left alone.
    """
    for secret in secrets:
        if len(secret) < LEAST_SECRET:
            continue
        for form in {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}:
            words = words.replace(form, BLOT)
        for length in range(min(len(secret) - 1, len(words)), LEAST_SECRET - 1, -1):
            if words.endswith(secret[:length]):
                words = words[:-length] + BLOT
                break
    return words
