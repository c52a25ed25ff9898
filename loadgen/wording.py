"""How a run words its requests beyond what the dialect does by itself: values that travel to the workers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

USAGES: Final = ("final", "continuous", "none")


@dataclass(frozen=True, slots=True)
class Wording:
    """The dialect, by its name, and the user's changes to it."""

    api: str
    usage: str = "final"
    """When the server is asked for its count of tokens: at the end, in every event, never. One of USAGES."""
    token_ids: bool = False
    """Ask for the ids of the tokens in each event."""
    max_tokens_field: str | None = None
    """The name of the field with the limit on output tokens; None: the dialect's own."""
    tools: tuple[dict[str, Any], ...] = ()
    """Offered in every request, as OpenAI's chat API has them."""
    inputs: int = 1
    """The prompt is sent as so many."""
    template: Any = None
    """A body with placeholders, in the place of the dialect's own; None: its own."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Merged into every body."""
