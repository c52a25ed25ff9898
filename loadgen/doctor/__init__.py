"""What this machine can measure, and how well: `loadgen doctor`."""

from dataclasses import asdict, dataclass
from typing import Any, Final

OK: Final = "ok"
WARN: Final = "warn"
BAD: Final = "bad"
LEVELS: Final = (OK, WARN, BAD)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `value` is what `words` tell, `todo` is "" where all is well."""

    name: str
    level: str
    value: Any
    words: str
    todo: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def worst(findings: list[Finding]) -> str:
    """The worst level of several; ok of none."""
    return max((finding.level for finding in findings), key=LEVELS.index, default=OK)
