"""When a stage is broken off for the endpoint's sake: --abort-on.

CONDITION[,...]     CONDITION = error-rate>SHARE/TIME, as in error-rate>50%/30s
never
auto                error-rate>50%/30s for stages of the open loop, whose users do not wait for each other; closed
                    loops slow down with their endpoint and have none
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from loadgen.durations import duration_ns

AUTO: Final = "auto"
NEVER: Final = "never"
OF_OPEN_LOOPS: Final = "error-rate>50%/30s"

NS_PER_S: Final = 1_000_000_000

_ALLOWED: Final = f"allowed is for example {OF_OPEN_LOOPS}, several of them with commas between, or {NEVER}"


@dataclass(frozen=True, slots=True)
class AbortOn:
    """More than this share of the requests that ended within the last `window_s` failed."""

    share: float
    window_s: float
    text: str


def parse_abort_on(text: str) -> tuple[AbortOn, ...]:
    """The conditions of --abort-on; none for "never" (and for "auto", see `conditions`). ValueError, worded for the user."""
    if text.strip() in (AUTO, NEVER):
        return ()
    return tuple(_condition(part.strip()) for part in text.split(","))


def conditions(text: str, *, is_open_loop: bool) -> tuple[AbortOn, ...]:
    """Those that hold for a stage."""
    if text.strip() == AUTO:
        return parse_abort_on(OF_OPEN_LOOPS) if is_open_loop else ()
    return parse_abort_on(text)


def _condition(text: str) -> AbortOn:
    written = re.fullmatch(r"error-rate\s*>\s*([0-9]{0,9}\.?[0-9]{1,9})(%?)\s*/\s*(\S.*)", text)
    if written is None:
        raise ValueError(f"{text!r} is no condition; {_ALLOWED}")
    share = float(Decimal(written[1]) / (100 if written[2] else 1))
    if not 0 <= share < 1:
        raise ValueError(f"{text!r}: {written[1]}{written[2]} is no share that can be exceeded; {_ALLOWED}")
    window_s = duration_ns(written[3]) / NS_PER_S
    if not 0.5 <= window_s <= 3600:
        raise ValueError(f"{text!r}: {written[3]} is out of range; allowed is a time from 500ms to 1h")
    return AbortOn(share, window_s, text)
