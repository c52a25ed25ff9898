"""saturation.json, as far as a page shows it: where the endpoint's limit lies, with its interval."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from loadgen.schema import CaptureError

SATURATION_SCHEMA: Final = 1


def read_saturation(run_dir: Path) -> Mapping[str, Any] | None:
    """What RUN/saturation.json says; None without one, or where no limit was found. CaptureError if it is not to be read."""
    path = run_dir / "saturation.json"
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise CaptureError(f"{path} is no JSON") from None
    if not isinstance(told, dict) or told.get("schema") != SATURATION_SCHEMA:
        version = told.get("schema") if isinstance(told, dict) else None
        raise CaptureError(f"{path} has version {version}, this loadgen reads {SATURATION_SCHEMA}")
    at = [(told.get(name) or {}).get("value") for name in ("load", "output_tokens_per_s")]
    return told if all(isinstance(value, int | float) for value in at) else None
