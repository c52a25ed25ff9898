"""Specs, plans and installed commands for the tests: what a user would ask for, less what does not matter to a test."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from loadgen.spec import Spec

PATIENCE_S = 30.0

T = TypeVar("T")


def spec(**changes: Any) -> Spec:
    """A spec that is good as it is, with some fields changed."""
    fields: dict[str, Any] = {
        "url": "http://127.0.0.1:8000",
        "model": "sim",
        "api": "chat",
        "concurrency": (2,),
        "requests": 4,
        "duration_s": None,
        "warmup_s": 0.0,
        "drain_s": 5.0,
        "input_tokens": 16,
        "output_tokens": 3,
        "ignore_eos": False,
        "seed": 1,
        "workers": None,
        "cpus": None,
        "transport": "auto",
        "tls_ca": None,
        "insecure": False,
        "proxy": None,
        "connect_timeout_s": 5.0,
        "first_byte_timeout_s": 20.0,
        "idle_timeout_s": 20.0,
        "timeout_s": 20.0,
        "slo": None,
    }
    assert changes.keys() <= fields.keys()
    return Spec(**fields | changes)


def environment(**changes: str) -> dict[str, str]:
    """The environment of a user who has set nothing of ours."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "DATABRICKS_"))}
    return plain | {"COLUMNS": "120", "TERM": "dumb"} | changes


def installed() -> list[str]:
    """The installed command, beside this interpreter."""
    script = Path(sys.executable).with_name("loadgen")
    return [str(script)] if script.exists() else [sys.executable, "-m", "loadgen"]


def typed(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the installed command to its end."""
    return subprocess.run(
        [*installed(), *map(str, arguments)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def until(condition: Callable[[], T], what: str) -> T:
    """Wait for `condition()` to be true and return what it gave."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not (seen := condition()):
        assert time.monotonic() < give_up_s, f"waited in vain for {what}"
        time.sleep(0.01)
    return seen


def children(pid: int) -> list[int]:
    """The processes that this one has started, in order."""
    return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def gone(pid: int) -> bool:
    """Whether a process has ended (one that nobody has waited for yet counts as ended)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
