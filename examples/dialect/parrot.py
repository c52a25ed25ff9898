"""The API of a made-up server, Parrot, as an example of a dialect in a package of its own.

It is asked with POST /parrot/talk {"text", "words"} and a key in `x-parrot-key`, and answers with a JSON document a line:
{"word": "Hello", "n": 1}, then {"end": "enough", "n": 1, "heard": 7}; or {"oops": "..."}.
"""

from typing import Any

import orjson

from loadgen.dialects.answer import CONTENT, NOTHING, Answer, Ask, count, short_text
from loadgen.dialects.conversation import plain_text
from loadgen.dialects.dialect import Dialect, Varying


def write(ask: Ask) -> dict[str, Any]:
    """What is asked. plain_text has the whole conversation, for the later turns of a session."""
    return {"text": plain_text(ask), "words": ask.output_tokens}


def read(payload: bytes, answer: Answer) -> int:
    """What one line carried. A line that is none of Parrot's raises KeyError, which is what it should do."""
    line = orjson.loads(payload)
    if "oops" in line:
        answer.error_words = short_text(line["oops"])
        return NOTHING
    answer.output_tokens = answer.cumulative_tokens = count(line["n"])
    if "end" in line:
        answer.end_seen = True
        answer.finish_reason = short_text(line["end"])
        answer.prompt_tokens = count(line.get("heard"))
        return NOTHING
    return CONTENT if line["word"] else NOTHING


def text(payload: bytes) -> str:
    """What a line with output said."""
    return str(orjson.loads(payload)["word"])


DIALECT = Dialect(
    name="parrot",
    route="/parrot/talk",
    write=write,
    read=read,
    text=text,
    framing="ndjson",
    # Lines that differ in `word` and `n` alone are told apart without parsing them.
    texts=("word",),
    varying=Varying(so_far="n"),
    auth=("x-parrot-key", "{key}"),
    key_variables=("PARROT_KEY",),
    needs_model=False,
)
