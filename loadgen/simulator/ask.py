"""What a request asks for, in terms that all dialects share, and the refusal of it.

Prompt tokens are counted by a plain rule: a string counts its words (runs of characters that are no white space), a
list of token ids its ids, an image so many tokens as the rules say; of chat messages the contents count, and so many
tokens a message as the rules say for the template (none, unless told otherwise).
"""

import json
import zlib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

LONGEST_CONTEXT: Final = 1 << 20
NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Rules:
    """What the server serves and what the model does.

    `default_output_tokens` is for a request that names no limit; `eos_share` the chance, token by token, that the model
    ends its answer there (never where `ignore_eos` is asked for). `reasoning_tokens`: so many tokens at the beginning of
    an answer are reasoning, where the dialect has a place for it. `tool_call_share`: the share of the answers that call
    a tool; None: all that were offered one. `task` is what the Databricks endpoint says of itself.
    """

    model: str = "sim"
    default_output_tokens: int = 128
    eos_share: float = 0.0
    reasoning_tokens: int = 0
    tool_call_share: float | None = None
    refusal_share: float = 0.0
    image_tokens: int = 256
    template_tokens: int = 0
    max_model_len: int = LONGEST_CONTEXT
    stream_options: bool = True
    task: str = "llm/v1/chat"
    adapters: tuple[str, ...] = ()
    """Other names that are served as well: they answer as the model does."""


class Call(NamedTuple):
    """An HTTP request, read whole. `fields` holds the header fields that somebody here looks at, in lower case;
    `names` what the path named."""

    method: str
    path: str
    query: str = ""
    version: str = "1.1"
    fields: Mapping[str, str] = NOTHING
    names: Mapping[str, str] = NOTHING
    body: bytes = b""
    keep_alive: bool = True
    too_long: bool = False
    read_ns: int = 0


class Wants(NamedTuple):
    """A valid request. `prompt` is its tokens, of which two are the same if they are equal.

    limit: most output tokens; None if the request names none. least: no answer stops before so many. reasoning: "shown",
    "hidden" (spent and counted, never sent) or "none". tools: the names that are offered. must_call: the answer has to
    be a call. salt: prompts of different salts share no prefix. own: what only the dialect's wording needs to know.
    """

    stream: bool
    prompt: list[Hashable]
    limit: int | None = None
    least: int = 0
    ignore_eos: bool = False
    reasoning: str = "none"
    tools: tuple[str, ...] = ()
    may_call: bool = False
    must_call: bool = False
    may_refuse: bool = False
    salt: str = ""
    cacheable: bool = True
    embeds: bool = False
    own: Mapping[str, Any] = NOTHING


class Refusal(Exception):
    """The request is answered with an error: status and OpenAI's four fields; each dialect puts it into its own shape."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = status, message, kind, code, param


def wrong(param: str, message: str) -> Refusal:
    """A field of the body does not hold."""
    return Refusal(400, message, param=param)


def json_object(body: bytes) -> dict[str, Any]:
    """The body as a dict; Refusal if it is none."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one of the first
        raise Refusal(400, f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(said, dict):
        raise Refusal(400, "The body of the request must be a JSON object.")
    return said


def check_model(given: object, rules: Rules) -> None:
    """Refusal if `given` is no model's name (400) or another model's (404)."""
    if not isinstance(given, str):
        raise wrong("model", "you must provide a model parameter")
    if given != rules.model and given not in rules.adapters:
        message = f"The model `{given}` does not exist; this endpoint serves `{rules.model}`."
        raise Refusal(404, message, code="model_not_found", param="model")


def flag(wants: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    """A true or false of the body; absent and null are the default."""
    value = wants.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong(name, f"{name} must be true or false.")
    return value


def whole(wants: Mapping[str, Any], name: str, *, least: int = 1) -> int | None:
    """A whole number of the body; None where it is absent or null."""
    value = wants.get(name)
    if value is None:
        return None
    if type(value) is not int or value < least:
        raise wrong(name, f"{name} must be a whole number of at least {least}.")
    return value


def mapping(wants: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object of the body; empty where it is absent or null."""
    value = wants.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(name, f"{name} must be an object.")
    return value


def objects(wants: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of objects of the body; empty where it is absent or null."""
    value = wants.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise wrong(name, f"{name} must be a list of objects.")
    return value


def text_or_ids(value: object, name: str) -> list[Hashable]:
    """The tokens of one prompt: a string, or a list of token ids; either may stand alone in a list."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str):
        return list(value.split())
    if isinstance(value, list) and value and all(type(token) is int for token in value):
        return list(value)
    raise wrong(name, f"{name} must be one string or one list of token ids.")


def image(source: object, rules: Rules) -> list[Hashable]:
    """The tokens of an image; the same image has the same ones."""
    digest = zlib.crc32(repr(source).encode())
    return [f"image {digest:08x}"] * rules.image_tokens


def template(rules: Rules) -> list[Hashable]:
    """What the chat template adds to a message."""
    return ["template"] * rules.template_tokens


def words_of(parts: Iterable[object]) -> list[Hashable]:
    """The words of those parts that are strings."""
    return [word for part in parts if isinstance(part, str) for word in part.split()]
