"""A target as it is written: --target KEY=VALUE,..., or a table of the spec file."""

import re
from collections.abc import Callable
from typing import Any, Final

from loadgen.spec.notation import read_text, read_weight, shown
from loadgen.spec.targets import OF_TARGET, OWN


def read_targets(raw: object) -> tuple[dict[str, Any], ...]:
    """Texts as --target has them, or tables: what was said of each target, by the names of a TargetSpec."""
    listed = raw if isinstance(raw, list | tuple) else [raw]
    tables = []
    for number, one in enumerate(listed, 1):
        try:
            tables.append(_target(_written(one) if isinstance(one, str) else one))
        except ValueError as error:
            raise ValueError(f"target {number}: {error}" if len(listed) > 1 else str(error)) from None
    return tuple(tables)


def _written(text: str) -> dict[str, Any]:
    """ "model=a,weight=3,url=x,url=y": a comma belongs to the value unless a key follows it."""
    from loadgen.spec.settings import SETTINGS  # of which a target is one

    keys = "|".join(re.escape(key) for name in (*OWN, *OF_TARGET) for key in {name, name.replace("_", "-")})
    table: dict[str, Any] = {}
    for part in re.split(rf",(?=\s*(?:{keys})\s*=)", text):
        name, equals, value = part.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ValueError(f"{shown(part)} is no setting; allowed is KEY=VALUE, as in model=llama,weight=3")
        if name not in _MAY_HOLD_PAIRS and (other := re.search(r",\s*([A-Za-z][\w-]*)\s*=", value)):
            raise ValueError(f"{shown(other[1])} is no setting of a target; allowed is {', '.join((*OWN, *OF_TARGET))}")
        is_many = name in SETTINGS and SETTINGS[name].many
        if name in table and not (is_many and isinstance(table[name], list)):
            raise ValueError(f"{name} is given twice")
        if name in SETTINGS and SETTINGS[name].is_switch:
            table[name] = {"true": True, "false": False}.get(value.strip(), value)
        elif is_many and name != "model":
            table.setdefault(name, []).append(value.strip())
        else:
            table[name] = value.strip()
    return table


_MAY_HOLD_PAIRS: Final = ("url", "header", "header_env", "extra_body", "body_field")
"""Whose values may have a comma, a word and an equals sign in them."""

_MAY_BE_NOTHING: Final = ("model", "api_key_env", "api_key_file", "max_tokens_field", "body_template")


def _target(table: object) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ValueError(f"{shown(table)} is no target; allowed is KEY=VALUE, or a table")
    from loadgen.spec.settings import SETTINGS

    told: dict[str, Any] = {}
    for key, raw in table.items():
        name = str(key).replace("-", "_")
        own: dict[str, Callable[[Any], Any]] = {"name": read_text, "weight": read_weight, "model": read_text}
        read = own.get(name)
        if read is None and name in OF_TARGET:
            read = SETTINGS[name].read
        if read is None:
            raise ValueError(f"{shown(str(key))} is no setting of a target; allowed is {', '.join((*OWN, *OF_TARGET))}")
        if raw is None:  # so run.json writes what a target does not have, and what the others have is not meant
            told |= {name: None} if name in _MAY_BE_NOTHING else {}
            continue
        try:
            told[name] = read(raw)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return told
