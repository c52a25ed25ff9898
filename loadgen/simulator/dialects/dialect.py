"""What a dialect brings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loadgen.simulator.answer import Answer
from loadgen.simulator.ask import Call, Refusal, Rules, Wants
from loadgen.simulator.wording import Style, Wording


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API.

    read: the body of a request -> Wants, or a Refusal. wording: who words the answer. refused: the body of an error.
    statuses: what this API calls a status, where it does not call it what HTTP does ("busy" is a full queue).
    keys: the header fields that may hold the key, besides `authorization: Bearer`. retry_after: whether a 429 or 503
    carries that header. id_prefix: how a response's id begins. by_body: which dialect it is after all, where one path
    serves several.
    """

    name: str
    read: Callable[[dict[str, Any], Call, Rules], Wants]
    wording: Callable[[Style, Answer], Wording]
    refused: Callable[[Refusal, int], bytes]
    statuses: Mapping[int | str, int] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    retry_after: bool = True
    id_prefix: str = "req-"
    by_body: "Callable[[dict[str, Any]], Dialect] | None" = None
