"""OpenAI completions: a plain prompt and its continuation.

An event whose text is "" may stand for a real token (a special token, half of a UTF-8 character), but there is nothing
in it that a user could see: it is no output; the usage counts its token.
"""

import re
from typing import Any, Final

import orjson

from loadgen.dialects.answer import CONTENT, NOTHING, Answer, Ask
from loadgen.dialects.openai import choice_of, frame
from loadgen.errors import UsageError

PATH: Final = "/completions"
TEXT_MARK: Final = re.compile(rb'"text"\s*:\s*"')


def body(ask: Ask) -> dict[str, Any]:
    """The request's JSON."""
    before = [ask.system] if ask.system else []
    before += [said + answered for said, answered in ask.history]
    if ask.images or ask.tools:
        raise UsageError("--api: completions takes no images and no tools; allowed is --api chat")
    said = [str(message.get("content") or "") for message in ask.messages] or [ask.prompt]
    return {"prompt": "\n\n".join([*before, *said]), **frame(ask), **ask.extra}


def text(payload: bytes) -> str:
    """What a content event said; raises as choice_of does."""
    said: str = orjson.loads(payload)["choices"][0]["text"]
    return said


def read(payload: bytes, answer: Answer) -> int:
    """What one event carried; raises as choice_of does."""
    choice = choice_of(payload, answer)
    return CONTENT if choice is not None and choice.get("text") else NOTHING
