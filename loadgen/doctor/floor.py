"""The floor: how well this machine measured an endpoint whose times are known. Kept so that results can quote it.

CACHE/floor-DIGEST.json, one a host, kernel, processor and version of this program: where one of them changes, the floor is
not known any more.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

FLOOR_SCHEMA: Final = 1
OF_A_KEY: Final = ("name", "kernel", "cpu")

QUOTED: Final = ("at", "stamp_error_us", "lateness_us", "tokens_per_s_a_core", "workers")
"""What of it stands in run.json and summary.json."""


def key(facts: dict[str, Any], version: str) -> dict[str, str]:
    """What a floor holds for, from host.facts()."""
    return {name: str(facts[name]) for name in OF_A_KEY} | {"loadgen": version}


def path(folder: Path, of: dict[str, str]) -> Path:
    """Where the floor of a key is kept."""
    digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"floor-{digest}.json"


def keep(folder: Path, of: dict[str, str], floor: dict[str, Any]) -> Path:
    """Write it, whole or not at all. OSError where that cannot be done."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = path(folder, of)
    part = kept.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps({"schema": FLOOR_SCHEMA, "of": of, **floor}, indent=1) + "\n", encoding="utf-8")
    os.replace(part, kept)
    return kept


def known(folder: Path | None, of: dict[str, str]) -> dict[str, Any] | None:
    """The floor of a key without the key; None where none is kept, or none that can be read."""
    if folder is None:
        return None
    try:
        told = json.loads(path(folder, of).read_bytes())
        if told["schema"] != FLOOR_SCHEMA or told["of"] != of:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {name: value for name, value in told.items() if name not in ("schema", "of")}
