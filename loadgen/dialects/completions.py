"""OpenAI completions: a plain prompt and its continuation.

An event whose text is "" may stand for a real token (a special token, half of a UTF-8 character), but there is nothing
in it that a user could see: it is no output; the usage counts its token.
"""

from typing import Any, Final

import orjson

from loadgen.dialects.answer import CONTENT, NOTHING, Answer, Ask
from loadgen.dialects.conversation import plain_text
from loadgen.dialects.dialect import Dialect
from loadgen.dialects.openai import MODELS, VARYING, choice_of, frame


def write(ask: Ask, *, names_model: bool = True) -> dict[str, Any]:
    """The request's JSON."""
    prompt = list(ask.token_ids) if ask.token_ids else plain_text(ask)
    return {"prompt": prompt, **frame(ask, names_model=names_model)}


def text(payload: bytes) -> str:
    """What a content event said; raises as choice_of does."""
    said: str = orjson.loads(payload)["choices"][0]["text"]
    return said


def read(payload: bytes, answer: Answer) -> int:
    """What one event carried; raises as choice_of does."""
    choice = choice_of(payload, answer)
    return CONTENT if choice is not None and choice.get("text") else NOTHING


DIALECT: Final = Dialect(
    name="completions",
    route="/completions",
    root="/v1",
    whole=r"(?<!/chat)/completions$",
    write=write,
    read=read,
    text=text,
    texts=("text",),
    varying=VARYING,
    takes=frozenset({"ignore_eos", "token_ids", "messages", "usage", "return_token_ids"}),
    listing=MODELS,
)
