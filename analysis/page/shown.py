"""What a page is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.summary import Analysis


@dataclass(frozen=True, slots=True)
class Shown:
    """A run that a page shows: what it is called there, its analysis, and what its saturation.json says (or None)."""

    label: str
    analysis: Analysis
    saturation: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Glossary:
    """What the load side calls things: the meaning of each class of errors."""

    errors: Mapping[str, str] = field(default_factory=dict)
