"""What one value of a record says: tokens, a time, a text. Problem where it says none."""

import datetime
import re
from typing import Any, Final

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000

MOST_TOKENS: Final = (1 << 31) - 1


class Problem(ValueError):
    """What is wrong with a record; becomes a BadLine."""


def tokens(value: Any, what: str) -> int | None:
    """A count of tokens; None for none. A CSV has it as text."""
    if value is None or value == "":
        return None
    try:
        number = int(value) if not isinstance(value, float) else round(value)
    except (ValueError, TypeError, OverflowError):
        raise Problem(f"{what} is {short(value)}, which is no number of tokens") from None
    if isinstance(value, bool) or not 0 <= number <= MOST_TOKENS:
        raise Problem(f"{what} is {short(value)}; allowed are whole numbers from 0")
    return number


def seconds_ns(value: Any, what: str, ns_per_unit: int = NS_PER_S) -> int:
    """A point in time in ns: a number, or a date with a time."""
    try:
        number = float(value)
    except ValueError:
        return date_ns(str(value), what)
    except TypeError:
        raise Problem(f"{what} is {short(value)}, which is no time") from None
    if isinstance(value, bool) or not abs(number) < 9e9:
        raise Problem(f"{what} is {short(value)}, which is no time")
    return int(number) * ns_per_unit + round((number - int(number)) * ns_per_unit)


_DATE: Final = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?\s*(Z|[+-]\d\d:?\d\d)?")
_dates: dict[str, int] = {}


def date_ns(text: str, what: str) -> int:
    """A date with a time, in ns since 1970; UTC where it names no zone."""
    found = _DATE.fullmatch(text.strip())
    if found is None:
        raise Problem(f"{what} is {short(text)}, which is no time")
    whole, fraction, zone = found.groups()
    key = whole + (zone or "")
    if (seconds := _dates.get(key)) is None:
        try:
            date = datetime.datetime.fromisoformat(whole + (zone or "+00:00"))
        except ValueError:
            raise Problem(f"{what} is {short(text)}, which is no time") from None
        if len(_dates) > 4096:
            _dates.clear()
        seconds = _dates[key] = round(date.timestamp())
    return seconds * NS_PER_S + int((fraction or "0").ljust(9, "0"))


def text_of(value: Any, what: str) -> str:
    """A text that can be sent."""
    if not isinstance(value, str):
        raise Problem(f"{what} is {short(value)}, which is no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Problem(f"{what} holds half a character") from None
    return value


def short(value: Any) -> str:
    """A value as an error message shows it."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:60]}..."
