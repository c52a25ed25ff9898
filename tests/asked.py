"""Specs, plans and installed commands for the tests: what a user would ask for, less what does not matter to a test."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from loadgen.distribution import parse_distribution
from loadgen.errors import UsageError
from loadgen.schedule.arrivals import parse_process
from loadgen.schedule.profile import parse_profile
from loadgen.spec import Spec, StageSpec, parse_cancel, plain
from loadgen.spec.layers import Document, Given, Layer, put, settled
from loadgen.spec.notation import read_lengths
from loadgen.spec.refusals import flag
from loadgen.spec.settings import SETTINGS

PATIENCE_S = 120.0
"""For what has to happen at all: a machine may be ten times as slow as usual, or stand still for seconds."""

T = TypeVar("T")


def stage_spec(**changes: Any) -> StageSpec:
    """One stage that is good as it is. Profiles, processes and distributions may be given as their compact text."""
    fields: dict[str, Any] = {
        "name": None,
        "concurrency": None,
        "rate": None,
        "arrivals": None,
        "requests": None,
        "sessions": None,
        "duration_s": None,
        "ramp_up_s": 0.0,
        "warmup_s": 0.0,
        "warmup_requests": 0,
        "drain_s": 5.0,
        "max_in_flight": None,
        "late_drop_s": None,
    } | changes
    if fields["rate"] is None and fields["arrivals"] is None and fields["concurrency"] is None:
        fields["concurrency"] = 2
    if fields["rate"] is not None and fields["arrivals"] is None:
        fields["arrivals"] = "poisson"
    for name in ("concurrency", "rate"):
        if isinstance(fields[name], int | float | str):
            fields[name] = parse_profile(plain(fields[name]))
    if isinstance(fields["arrivals"], str):
        fields["arrivals"] = parse_process(fields["arrivals"])
    return StageSpec(**fields)


def spec(**changes: Any) -> Spec:
    """A spec that is good as it is, with some fields changed.

    What a stage has goes to every stage; `concurrency` and `rate` may be a tuple, which is a stage each.
    """
    of_stages = {field.name for field in dataclasses.fields(StageSpec)}
    stage = {name: changes.pop(name) for name in list(changes) if name in of_stages}
    if not stage.keys() & {"requests", "duration_s", "sessions"}:
        stage["sessions" if changes.get("turns") else "requests"] = 4
    swept = next((name for name in ("concurrency", "rate") if isinstance(stage.get(name), tuple)), None)
    stages = [stage_spec(**stage | {swept: level}) for level in stage[swept]] if swept else [stage_spec(**stage)]
    for name, unit in (("turns", "count"), ("think", "duration")):
        if isinstance(changes.get(name), str):
            changes[name] = parse_distribution(changes[name], unit)
    if isinstance(changes.get("cancel"), str):
        changes["cancel"] = parse_cancel(changes["cancel"])
    for name in ("input_tokens", "output_tokens"):
        if isinstance(changes.get(name), int | str):
            changes[name] = read_lengths(changes[name])
    fields: dict[str, Any] = {
        "url": "http://127.0.0.1:8000",
        "model": "sim",
        "api": "chat",
        "api_key_env": None,
        "api_key_file": None,
        "header": (),
        "header_env": (),
        "usage": "final",
        "return_token_ids": False,
        "max_tokens_field": None,
        "inputs": 1,
        "tools": (),
        "image": (),
        "body_template": None,
        "extra_body": {},
        "body_field": {},
        "stages": tuple(stages),
        "input_tokens": read_lengths(16),
        "output_tokens": read_lengths(3),
        "prefix_tokens": 0,
        "turns": None,
        "history": "real",
        "think": None,
        "cancel": None,
        "retries": 0,
        "ignore_eos": False,
        "seed": 1,
        "workers": None,
        "cpus": None,
        "transport": "auto",
        "spin": False,
        "tls_ca": None,
        "insecure": False,
        "proxy": None,
        "connect_timeout_s": PATIENCE_S,
        "first_byte_timeout_s": PATIENCE_S,
        "idle_timeout_s": PATIENCE_S,
        "timeout_s": PATIENCE_S,
        "cooldown_s": 0.0,
        "early_stop": False,
        "slo": None,
    }
    assert changes.keys() <= {field.name for field in dataclasses.fields(Spec)}
    return Spec(**fields | changes)


def spec_of_flags(flags: dict[str, Any], document: Document | None = None) -> Spec:
    """The checked spec of settings as flags give them, over a spec file."""
    given: Layer = {}
    for name, raw in flags.items():
        try:
            put(given, name, Given(SETTINGS[name].read(raw), flag(name)))
        except ValueError as error:
            raise UsageError(f"{flag(name)}: {error}") from None
    return settled(given, document or Document({}), {})


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
        timeout=PATIENCE_S * 2.5,
        check=False,
    )


def complaints(stderr: str) -> list[str]:
    """What a command that makes load complains of on standard error, where it also tells its course."""
    return [line for line in stderr.splitlines() if line.startswith("loadgen: ")]


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of all whole batches of the captures below a folder, by pyarrow alone."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("worker-*.arrow")):
        with pa.OSFile(str(path)) as source:
            try:
                for batch in pa.ipc.open_stream(source):
                    found += batch.to_pylist()
            except (pa.ArrowInvalid, OSError):
                continue
    return found


def until(condition: Callable[[], T], what: str) -> T:
    """Wait for `condition()` to be true and return what it gave."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not (seen := condition()):
        assert time.monotonic() < give_up_s, f"waited in vain for {what}"
        time.sleep(0.01)
    return seen


def in_one_of(tries: int, attempt: Callable[[int], T]) -> T:
    """What the first of some attempts returns whose assertions hold; where none does, the last one's failure.

    For what a disturbance of the machine can make fail and nothing can make hold but the product.
    """
    for number in range(tries - 1):
        try:
            return attempt(number)
        except AssertionError as error:
            print(f"attempt {number + 1}: {error}")  # noqa: T201  pytest shows it if the last one fails too
    return attempt(tries - 1)


def children(pid: int) -> list[int]:
    """The processes that this one has started, in order."""
    return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def gone(pid: int) -> bool:
    """Whether a process has ended (one that nobody has waited for yet counts as ended)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
