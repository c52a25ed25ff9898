"""What a setting is: defined once, for the command line, the spec file and run.json alike."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadgen.spec.notation import one_of, read_duration_s, read_seconds


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `name` is its key in a spec file and, with dashes, its flag."""

    name: str
    read: Callable[[Any], Any]
    """ValueError, worded for the user, for what it cannot read (notation.py)."""
    help: str = ""
    """Without one it is no flag."""
    default: str | bool | None = None
    """As it would be written; None where there is none, or where it depends on others."""
    metavar: str | None = None
    empty: Any = None
    """What a Spec has where there is no default."""
    many: bool = False
    """The flag may be given several times: it is read as a list of texts."""
    of_stage: bool = False
    """May stand in a [[stage]] too."""
    field: str = ""
    """Its name in a Spec and in run.json; "" where that is the same."""
    read_field: Callable[[Any], Any] | None = None
    """Where run.json writes the value in another way."""
    makes_stages: bool = False
    """Says how the stages are made: a Spec holds what was made of it."""

    @property
    def default_value(self) -> Any:
        """What a Spec has where nobody says anything."""
        return self.empty if self.default is None else self.read(self.default)

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return isinstance(self.default, bool)


def duration(name: str, **more: Any) -> Setting:
    """A setting that is a time; its name in a Spec ends in _s."""
    return Setting(name, read_duration_s, field=f"{name}_s", read_field=read_seconds, metavar="TIME", **more)


def choice(name: str, allowed: tuple[str, ...], **more: Any) -> Setting:
    """A setting that is one of some words; the first of them by itself."""
    return Setting(name, one_of(allowed), metavar="|".join(allowed), default=allowed[0], **more)
