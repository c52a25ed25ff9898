"""What is asked of an endpoint and what it answered, in terms that all dialects share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

CONTENT: Final = 0
REASONING: Final = 1
TOOL: Final = 2
NOTHING: Final = -1
"""What an event carried: the values of the capture's `event_kind`, and NOTHING for an event without output."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, before a dialect puts it into words."""

    model: str
    prompt: str
    output_tokens: int
    ignore_eos: bool
    system: str = ""
    """What stands before everything; "" for nothing."""
    history: tuple[tuple[str, str], ...] = ()
    """The turns before: (what was said, what was answered)."""
    token_ids: tuple[int, ...] = ()
    """The prompt as ids, in the place of `prompt`."""
    images: tuple[str, ...] = ()
    """data: or http URLs, in the last thing that the user says."""
    shown: tuple[str, ...] = ()
    """Likewise, in the first thing that the user said in `history`."""
    messages: tuple[dict[str, Any], ...] = ()
    """A whole conversation as OpenAI's chat API has it, in the place of system, history, prompt and images."""
    tools: tuple[dict[str, Any], ...] = ()
    """As OpenAI's chat API has them."""
    inputs: int = 1
    """The prompt is sent as so many, of about equal length."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields that are merged into the body last; see dialect.merged."""


class Answer:
    """What the events of one response have said so far. Counts are None until the server tells."""

    __slots__ = (
        "cached_tokens",
        "cumulative_tokens",
        "end_seen",
        "error_words",
        "finish_reason",
        "grown",
        "is_cumulative",
        "output_tokens",
        "prompt_tokens",
        "reasoning_tokens",
        "response_id",
        "text_before",
        "undecided",
    )

    def __init__(self) -> None:
        self.response_id: str | None = None
        self.finish_reason: str | None = None
        self.end_seen = False  # the dialect's own end sign
        self.error_words: str | None = None  # an error event's message
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self.reasoning_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.cumulative_tokens: int | None = None
        """Output tokens up to and with the event read last, where the event says so itself."""
        self.is_cumulative = False
        """Whether each event repeats the text before it, as far as can be told by now."""
        self.undecided = False
        """Whether it cannot be told yet: then every event has to be read."""
        self.text_before = ""  # of the event before, where a dialect has to compare
        self.grown = 0  # how often in a row an event began with the text of the one before it


def count(value: object) -> int | None:
    """A count of tokens as a server sent it; None for whatever is no count."""
    return value if type(value) is int and 0 <= value < 1 << 31 else None  # a bool is an int too, but no count


MAX_SHORT_TEXT: Final = 200


def short_text(value: object) -> str | None:
    """An id or a reason as a server sent it, at most MAX_SHORT_TEXT characters; None for whatever is no text."""
    return value[:MAX_SHORT_TEXT] if isinstance(value, str) else None


# A sentence shown to the user is cut far shorter, but only when a key that the server quotes has been blotted out: half a
# key would not be recognised.
MAX_WORDS: Final = 4000


def words_of_error(body: bytes) -> str:
    """The server's own words in an error body of any of the usual shapes, else the body itself; at most MAX_WORDS.

    OpenAI and most others: {"error": {"message"}}; Gemini: the same, at times in a list; TGI, Triton, Ollama: {"error":
    "..."}; Databricks: {"message"}; FastAPI: {"detail"}.
    """
    try:
        message = orjson.loads(body)
    except ValueError:
        message = None
    words: object = None
    if isinstance(message, list) and len(message) == 1:  # Gemini, where no event stream was asked for
        message = message[0]
    if isinstance(message, dict):
        error = message.get("error")
        if isinstance(error, dict):
            words = error.get("message") or error.get("type")
        words = words or error or message.get("message") or message.get("detail")
    if not words:
        words = body.decode("utf-8", "replace")
    text = words if isinstance(words, str) else orjson.dumps(words, default=str).decode()
    return " ".join(text.split())[:MAX_WORDS]
