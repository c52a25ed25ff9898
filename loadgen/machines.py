"""How many machines a load needs, and what runs out first on one.

What a load needs follows from its forecast; what a core carries, and what a connection, a request and a token take, was
measured. docs/scale.md has each figure with the command that gave it, and the arithmetic up to a million streams.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from loadgen.errors import UsageError
from loadgen.forecast import CONNECTION_BYTES, EVENT_BYTES, ROW_BYTES, WORKER_BYTES, Forecast
from loadgen.host import SPARE_DESCRIPTORS

TOKENS_PER_S_A_CORE: Final = 49_000
"""benchmarks/results/accuracy.jsonl, 1000-lock-step: carried by one core, none of them merged."""

REQUEST_CPU_US: Final = 210.0
"""CPU of a worker for a request and its answer, the tokens left out (benchmarks/pacing.py, 1,000 requests a second): the
median of three hours, 195 to 242."""

MOST_CPU_SHARE: Final = 0.85
"""Above which the verdict doubts a worker."""

TOKEN_WIRE_BYTES: Final = 320
"""A token's event in a packet of its own on an Ethernet, as it comes (benchmarks/limits.py wire; docs/scale.md)."""

TOKEN_ACK_BYTES: Final = 104
"""What goes back for it."""

REQUEST_WIRE_BYTES: Final = 1_500
"""HTTP heads and the last events of an answer; a bound, hardly seen beside the tokens."""

INPUT_TOKEN_BYTES: Final = 6
"""A word of a prompt in JSON."""

MOST_MEMORY_SHARE: Final = 0.8
"""Of a machine's memory: the rest is the kernel's, with the buffers of its sockets."""

GATHERED_BYTES: Final = 270
"""Memory that a request takes where the parts are put together (benchmarks/limits.py gathering)."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What one machine has; None where nobody knows, and then it sets no limit."""

    cores: int
    memory_bytes: int | None = None
    ports: int | None = None
    """Connections to one address."""
    descriptors: int | None = None
    """Of a process."""
    network_bytes_per_s: float | None = None
    """One way."""
    disk_bytes_per_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


class Carried(NamedTuple):
    """What one core carries, and who says so."""

    tokens_per_s: float
    source: str


class Need(NamedTuple):
    """One resource: how much the load takes, how much of it a machine has, and how many machines that makes."""

    name: str
    unit: str
    needed: float
    a_machine: float | None
    machines: int | None


@dataclass(frozen=True, slots=True)
class Needs:
    """Of the stage that takes most machines."""

    stage: int
    needs: list[Need]
    workers_a_machine: int
    driver_bytes: int
    """Memory of the machine that gathers the results."""

    @property
    def machines(self) -> int:
        """How many machines the load takes; 1 at least."""
        return max((need.machines or 1 for need in self.needs), default=1)

    @property
    def limit(self) -> Need:
        """What runs out first."""
        known = [need for need in self.needs if need.a_machine is not None]
        return max(known, key=lambda need: need.needed / need.a_machine if need.a_machine else math.inf)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "machines": self.machines,
            "limit": self.limit.name,
            "stage": self.stage,
            "workers_a_machine": self.workers_a_machine,
            "driver_memory_bytes": self.driver_bytes,
            "needs": [need._asdict() for need in self.needs],
        }


def needs(told: Forecast, machine: Machine, workers: int, carried: Carried) -> Needs:
    """What a forecast load takes of machines of one kind, with so many workers each."""
    by_stage = [_needs(told, number, machine, workers, carried) for number in range(len(told.stages))]
    worst = max(range(len(by_stage)), key=lambda number: _worst(by_stage[number]))
    requests = sum(stage.requests for stage in told.stages)
    return Needs(worst, by_stage[worst], workers, requests * GATHERED_BYTES)


def _worst(found: Sequence[Need]) -> float:
    return max(need.needed / need.a_machine if need.a_machine else 0.0 for need in found)


def _needs(told: Forecast, number: int, machine: Machine, workers: int, carried: Carried) -> list[Need]:
    stage = told.stages[number]
    cores = stage.output_tokens_per_s / carried.tokens_per_s
    cores += stage.requests_per_s * REQUEST_CPU_US / 1e6 / MOST_CPU_SHARE
    descriptors = None if machine.descriptors is None else workers * max(machine.descriptors - SPARE_DESCRIPTORS, 1)
    memory = None
    if machine.memory_bytes is not None:
        memory = max(machine.memory_bytes * MOST_MEMORY_SHARE - workers * (WORKER_BYTES + told.pool_bytes), 1.0)
    received = stage.output_tokens_per_s * TOKEN_WIRE_BYTES + stage.requests_per_s * REQUEST_WIRE_BYTES
    sent = stage.input_tokens_per_s * INPUT_TOKEN_BYTES + stage.requests_per_s * REQUEST_WIRE_BYTES
    sent += stage.output_tokens_per_s * TOKEN_ACK_BYTES
    written = stage.output_tokens_per_s * EVENT_BYTES + stage.requests_per_s * ROW_BYTES
    return [
        _need("cores", "", cores, workers),
        _need("ports", "", stage.connections, machine.ports),
        _need("descriptors", "", stage.connections, descriptors),
        _need("memory", "bytes", stage.connections * CONNECTION_BYTES, memory),
        _need("network in", "bytes_per_s", received, machine.network_bytes_per_s),
        _need("network out", "bytes_per_s", sent, machine.network_bytes_per_s),
        _need("disk", "bytes_per_s", written, machine.disk_bytes_per_s),
    ]


def _need(name: str, unit: str, needed: float, a_machine: float | None) -> Need:
    return Need(name, unit, needed, a_machine, None if a_machine is None else max(math.ceil(needed / a_machine), 1))


# --- what a machine is, as one flag says it ---

KEYS: Final = {
    "cores": "cores",
    "memory": "memory_bytes",
    "ports": "ports",
    "descriptors": "descriptors",
    "network": "network_bytes_per_s",
    "disk": "disk_bytes_per_s",
}

_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z/]*)")

_BYTES: Final = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
_UNITS: Final[dict[str, dict[str, float]]] = {
    "memory": {**_BYTES},
    "disk": {**_BYTES, **{f"{unit}/s": size for unit, size in _BYTES.items()}},
    "network": {"Mbit": 125e3, "Gbit": 125e6, "Mbit/s": 125e3, "Gbit/s": 125e6},
}


def parse_machine(text: str, like: Machine) -> Machine:
    """`cores=32,memory=128GB,network=25Gbit`; what it does not say is as on `like`, or, where cores are told, unknown.

    Ports and descriptors are settings of the system, and those of `like` unless told. UsageError with what is allowed.
    """
    told: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or key not in KEYS:
            raise UsageError(
                f"--machine: {part.strip()!r} is not understood; allowed is KEY=VALUE with {', '.join(KEYS)}"
            )
        if KEYS[key] in told:
            raise UsageError(f"--machine: {key} is there twice")
        told[KEYS[key]] = _value(key, value)
    if "cores" in told:
        like = replace(like, memory_bytes=None, network_bytes_per_s=None, disk_bytes_per_s=None)
    return replace(like, **told)


def _value(key: str, text: str) -> float | int:
    units = _UNITS.get(key, {"": 1})
    found = _NUMBER.fullmatch(text)
    if found is None or found[2] not in units or not float(found[1]):
        allowed = "a whole number from 1" if key not in _UNITS else f"a number with {', '.join(units)}"
        raise UsageError(f"--machine: {key}={text!r} is no amount; allowed is {allowed}")
    value = float(found[1]) * units[found[2]]
    if key in _UNITS:
        return int(value) if key == "memory" else value
    if not value.is_integer():
        raise UsageError(f"--machine: {key}={text!r} is no whole number; allowed is a whole number from 1")
    return int(value)
