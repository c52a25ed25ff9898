"""Agents as processes of this machine, without Ray: what loadgen.cluster.engine does, for tests of everything beside it.

As a script it is such a process: calls come pickled through its input, answers go out the same way.
"""

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from loadgen.arrow import prepare_pyarrow
from loadgen.clock import monotonic_ns
from loadgen.cluster.agent import Agent, facts
from loadgen.cluster.fleet import EngineError

TOKEN = bytes(range(32))


@dataclass(frozen=True)
class Where:
    """How one agent is started: what its process runs under, the address that it listens at, how its clock differs."""

    under: tuple[str, ...] = ()
    address: str = "127.0.0.1"
    offset_ns: int = 0
    drift_ppm: float = 0.0
    pretends: tuple[tuple[str, object], ...] = ()
    """Facts that it tells instead of the true ones."""


class Processes:
    """An Engine. `processes` are the agents, by node."""

    def __init__(self, wheres: Sequence[Where]) -> None:
        self.wheres = list(wheres)
        self.processes = [
            subprocess.Popen(
                [*where.under, sys.executable, "-P", __file__, str(number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for number, where in enumerate(wheres)
        ]

    def agents(self, token: bytes) -> list[tuple[str, int, dict[str, Any]]]:
        told = self._each({number: ("open", (token, where)) for number, where in enumerate(self.wheres)})
        return [told[number] for number in range(len(self.wheres))]

    def call(self, method: str, arguments: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        return self._each({number: (method, given) for number, given in arguments.items()})

    def _each(self, calls: dict[int, Any]) -> dict[int, Any]:
        for number, call in calls.items():
            with contextlib.suppress(BrokenPipeError):
                pickle.dump(call, self.processes[number].stdin)
                self.processes[number].stdin.flush()
        found = {}
        for number in calls:
            try:
                found[number] = pickle.load(self.processes[number].stdout)
            except EOFError:
                found[number] = EngineError("its process has died")
        return found

    def close(self) -> None:
        """End those that are left."""
        for process in self.processes:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for process in self.processes:
            process.wait(30)
            process.stdout.close()


@dataclass(frozen=True)
class Shifted:
    """A clock that differs from this machine's as `where` says, since `began_ns`."""

    where: Where
    began_ns: int

    def __call__(self) -> int:
        now_ns = monotonic_ns()
        return now_ns + self.where.offset_ns + round((now_ns - self.began_ns) * self.where.drift_ppm / 1e6)


@contextmanager
def processes(*wheres: Where) -> Iterator[Processes]:
    """Agents, one a process, that are gone afterwards."""
    engine = Processes(wheres)
    try:
        yield engine
    finally:
        engine.close()


def main(node: int) -> None:
    prepare_pyarrow()
    agent: Agent | None = None
    said = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    while True:
        try:
            method, given = pickle.load(sys.stdin.buffer)
        except EOFError:
            break
        answer: Any
        if method == "open":
            token, where = given
            if agent is not None:
                agent.close()
            agent = Agent(node, token, where.address, Shifted(where, monotonic_ns()))
            told = facts(node) | {"realtime_offset_ns": facts(node)["realtime_offset_ns"] - where.offset_ns}
            answer = (where.address, agent.port, told | dict(where.pretends))
        else:
            answer = getattr(agent, method)(*given)
        pickle.dump(answer, said)
        said.flush()
    if agent is not None:
        agent.close()


if __name__ == "__main__":
    # What comes pickled is of this module, by the name that it has where it is imported. Behind the packages of the
    # project: there are folders of tests by the same names beside it.
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    import agents

    agents.main(int(sys.argv[1]))
