"""What a record of a file becomes, whatever its format, and how the file is to be read for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from loadgen.workload.containers import Record

TRACES: Final = frozenset({"timed", "mooncake", "bailian", "azure", "burstgpt", "capture"})
"""Formats whose rows say when they came."""


class Turn(NamedTuple):
    """One request of a row: what is said, or how long it is to be."""

    prompt: str | None = None
    """None: to be made up, of `input_tokens` tokens."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    answer: str = ""
    """What was answered when it was recorded."""
    messages: tuple[dict[str, Any], ...] = ()
    """A whole conversation to be sent as it is, in place of the prompt."""
    images: tuple[str, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    extra: Mapping[str, Any] = {}


class Row(NamedTuple):
    """One unit of a file: a request, or a conversation of several turns."""

    line: int
    turns: tuple[Turn, ...]
    system: str = ""
    at_ns: int | None = None
    """When it came, on the file's own clock."""
    session: str | None = None
    """Rows of one session come one after the other, however long each takes."""
    parent: str | None = None
    """The session that this one goes on from, where each row has an id of its own."""
    hash_ids: tuple[int, ...] = ()
    """The prompt in blocks of `block_tokens`: equal ids stand for equal text."""
    block_tokens: int = 0
    target: str | None = None
    """Of a run of ours that had several: the name of what it went to."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is to be read."""

    path: str
    format: str
    container: str
    columns: Mapping[str, str]
    """Field -> column, for every field that the file has."""
    conversations: str = "auto"

    @property
    def has_times(self) -> bool:
        """Whether its rows say when they came."""
        return self.format in TRACES


def field(record: Record, how: Reading, name: str) -> Any:
    """What a record has for a field; None where there is no column for it, or nothing in it."""
    column = how.columns.get(name)
    return None if column is None else record.values.get(column)
