"""What a dialect has to say of itself: a table of facts and three functions.

Everything that is the same for all of them (the user's own fields, templates, the recognition of URLs) is done here, so that
a dialect's module holds what is special to its API and nothing else.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from loadgen.dialects.answer import Answer, Ask
from loadgen.dialects.conversation import messages_of
from loadgen.errors import UsageError
from loadgen.wording import Wording

FRAMINGS: Final = ("sse", "ndjson", "json")
"""How a response is cut into events: server-sent events, a JSON document a line, or one document in all."""

ACCEPTED: Final = {"sse": "text/event-stream", "ndjson": "application/x-ndjson", "json": "application/json"}

NOT_EVENTS: Final = {
    "sse": ("application/json", "text/html"),
    "ndjson": ("application/json", "text/html", "text/event-stream"),
    "json": ("text/html", "text/event-stream"),
}
"""Content types that are certainly not what was asked for, by framing; a missing or odd one gets the benefit of the
doubt."""

WANTED: Final = {"sse": "an event stream", "ndjson": "lines of JSON", "json": "JSON"}
EVENT_LINES: Final = {"sse": 2, "ndjson": 1, "json": 1}
"""Line ends that an event has at least."""

MALFORMED: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError)
"""What a dialect may raise on an event that is none of its own."""

# What an Ask may hold that not every API can say, and the flag that asks for it.
FLAGS: Final = {
    "ignore_eos": "--ignore-eos",
    "images": "--image",
    "tools": "--tools",
    "token_ids": "--api",
    "messages": "--api",
}
_CALLED: Final = {
    "ignore_eos": "way to go on behind the end of an answer",
    "images": "images",
    "tools": "tools",
    "token_ids": "prompts of token ids",
    "messages": "conversations",
}


class Varying(NamedTuple):
    """The keys in an output event, beside its text, whose values differ from event to event and say nothing of the kind."""

    strings: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    """Of whole numbers."""
    so_far: str = ""
    """Of the number that tells the output tokens up to this event."""


class Listing(NamedTuple):
    """Where an API lists its models, below the base of the URL, and how their names are found in the answer."""

    path: str
    names: Callable[[Any], list[str]]
    method: str = "GET"


class Description(NamedTuple):
    """Where an endpoint says what it speaks, with {model} in the path from the root, and the dialect's name in its
    answer."""

    path: str
    api: Callable[[Any], str | None]


def names_of_data(listed: Any) -> list[str]:
    """The names in a list of models as OpenAI and Anthropic send it."""
    return [str(row["id"]) for row in listed["data"]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API. See docs/dialects.md for a worked example."""

    name: str
    route: str
    """The path below the base of the URL; {model} stands for the model's name."""
    write: Callable[[Ask], dict[str, Any]]
    """An Ask -> the JSON body."""
    read: Callable[[bytes, Answer], int]
    """One event's data -> the kind of output that it carried, or NOTHING; what else it says goes into the Answer. An event
    that is none of this API's may raise ValueError, TypeError, KeyError, IndexError or AttributeError."""
    text: Callable[[bytes], str]
    """What an event of kind CONTENT said, for the next turn of a session to quote."""
    texts: tuple[str, ...] = ()
    """The keys that the text of an output event stands under: see worker.likeness, which saves parsing by them."""
    varying: Varying = field(default_factory=Varying)
    framing: str = "sse"
    """One of FRAMINGS."""
    ends_with_response: bool = False
    """Whether there is no end sign but the end of the response itself."""
    root: str = ""
    """What the base is where the URL has no path."""
    whole: str = ""
    """A regular expression for the end of HOST/PATH of a whole URL; "": that of the route. A group `model` names the
    model."""
    home: str = ""
    """A regular expression for the HOST/PATH of a base that can be of no other API; "": there is none."""
    query: str = ""
    """NAME=VALUE that the URL has to have; added where there is no NAME."""
    auth: tuple[str, str] = ("Authorization", "Bearer {key}")
    """The header with the key."""
    headers: tuple[tuple[str, str], ...] = ()
    key_variables: tuple[str, ...] = ("OPENAI_API_KEY",)
    """The environment variables that may hold the key, the first that is set counts."""
    takes: frozenset[str] = frozenset()
    """Which of FLAGS an Ask may hold, and the options of a Wording: "usage", "return_token_ids", "inputs"."""
    max_tokens_field: str = "max_tokens"
    """Dots lead into objects."""
    listing: Listing | None = None
    description: Description | None = None
    """Where one URL serves several dialects."""
    needs_model: bool = True
    """Whether a request has to name its model."""
    wording: Wording = field(default_factory=lambda: Wording(""))

    # URLs

    def whole_in(self, address: str) -> re.Match[str] | None:
        """Where HOST/PATH ends as a whole URL of this API does."""
        return re.search(self.whole or re.escape(self.route) + "$", address)

    def is_at_home(self, address: str) -> bool:
        """Whether HOST/PATH is a base of this API and of no other."""
        return bool(self.home) and re.search(self.home, address) is not None

    def path(self, base: str) -> str:
        """The path of the request line below a base; {model} is left in it."""
        return _joined(base or self.root, self.route, overlapping=not self.root)

    def listing_path(self, path: str) -> str:
        """Where the models are listed, beside the path of a request. There is a listing."""
        assert self.listing is not None
        return _joined(self.base_of(path), self.listing.path, overlapping=not self.root)

    def base_of(self, path: str) -> str:
        """The base of a path that path() made or that was given whole."""
        pattern = re.sub(r"\\\{model\\\}", "[^/]+", re.escape(self.route)) + "$"
        found = self.whole_in(path) or re.search(pattern, path)
        return path[: found.start()].rstrip("/") if found else path

    # requests

    def worded(self, wording: Wording) -> "Dialect":
        """The same API as the user wants it spoken. UsageError where it cannot be."""
        if wording.usage == "continuous" and "usage" not in self.takes:
            raise UsageError(f"--usage: the {self.name} API knows no continuous usage; allowed is final or none")
        if wording.inputs > 1 and "inputs" not in self.takes:
            raise UsageError(f"--inputs: the {self.name} API takes one prompt a request; leave it out")
        if wording.token_ids and "return_token_ids" not in self.takes:
            raise UsageError(f"--return-token-ids: the {self.name} API returns none; leave it out")
        return replace(self, wording=wording)

    def body(self, ask: Ask) -> dict[str, Any]:
        """The request's JSON. UsageError where this API cannot say what is asked."""
        wording = self.wording
        if wording.tools and not ask.tools:
            ask = replace(ask, tools=wording.tools)
        if wording.inputs > 1:
            ask = replace(ask, inputs=wording.inputs)
        if wording.template is not None:
            body: dict[str, Any] = filled(wording.template, ask)
        else:
            for name, flag in FLAGS.items():
                if getattr(ask, name) and name not in self.takes:
                    raise UsageError(
                        f"{flag}: the {self.name} API takes no {_CALLED[name]}; leave it out or give another --api"
                    )
            body = self.write(ask)
            if "stream_options" in body and wording.usage != "final":
                if wording.usage == "none":
                    del body["stream_options"]
                else:
                    body["stream_options"]["continuous_usage_stats"] = True
            if wording.token_ids:
                body["return_token_ids"] = True
            if wording.max_tokens_field is not None:
                body = _renamed(body, self.max_tokens_field, wording.max_tokens_field)
        return merged(merged(body, wording.extra), ask.extra)

    def path_to(self, path: str, model: str) -> str:
        """The path with the model in it."""
        return path.replace("{model}", quote(model, safe=""))


def _joined(base: str, path: str, *, overlapping: bool) -> str:
    # A path that begins with its version, as /v1/messages does: what the base has of it already is not said twice.
    parts = path.split("/")
    for n in range(len(parts) - 1, 1, -1) if overlapping else ():
        if base.endswith("/".join(parts[:n])):
            return base + path[len("/".join(parts[:n])) :]
    return base + path


def merged(body: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A body with changes (RFC 7396, JSON Merge Patch): objects are merged, null takes a field out, all else replaces."""
    if not changes:
        return body
    body = dict(body)
    for name, value in changes.items():
        if value is None:
            body.pop(name, None)
        elif isinstance(value, Mapping):
            there = body.get(name)
            body[name] = merged(there if isinstance(there, dict) else {}, value)
        else:
            body[name] = value
    return body


def nested(path: str, value: Any) -> dict[str, Any]:
    """ "a.b", 1 -> {"a": {"b": 1}}."""
    for name in reversed(path.split(".")):
        value = {name: value}
    made: dict[str, Any] = value
    return made


def _renamed(body: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    inner: Any = body
    for name in old.split("."):
        inner = inner.get(name) if isinstance(inner, dict) else None
    return body if inner is None else merged(merged(body, nested(old, None)), nested(new, inner))


def filled(template: Any, ask: Ask) -> Any:
    """A template's JSON with an Ask in its placeholders.

    "{messages}", "{output_tokens}" and "{images}" as a whole text become a list, a number and a list; {prompt}, {system},
    {model} and {output_tokens} may stand within a text.
    """
    if isinstance(template, dict):
        return {name: filled(value, ask) for name, value in template.items()}
    if isinstance(template, list):
        return [filled(value, ask) for value in template]
    if not isinstance(template, str) or "{" not in template:
        return template
    if template == "{messages}":
        return messages_of(ask)
    if template == "{output_tokens}":
        return ask.output_tokens
    if template == "{images}":
        return [*ask.shown, *ask.images]
    values = {"prompt": ask.prompt, "system": ask.system, "model": ask.model, "output_tokens": str(ask.output_tokens)}
    # In one go: what a prompt says in braces is no placeholder.
    return re.sub(r"\{(prompt|system|model|output_tokens)\}", lambda found: values[found[1]], template)


def prompts_in(template: Any) -> int:
    """How many times the template says the prompt."""
    if isinstance(template, dict):
        return sum(map(prompts_in, template.values()))
    if isinstance(template, list):
        return sum(map(prompts_in, template))
    if not isinstance(template, str):
        return 0
    return 1 if template == "{messages}" else template.count("{prompt}")
