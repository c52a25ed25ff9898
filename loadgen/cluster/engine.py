"""Ray: it puts an agent on every node, takes the order with the key there, and ends them all with the job.

The only module that imports Ray, and only where it is used: it comes with the extra `ray`.
"""

import contextlib
import logging
import os
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, Final

from loadgen.cluster.fleet import EngineError
from loadgen.errors import UsageError

PLACEMENT_S: Final = 60.0
"""For the cluster to give every agent its node."""

CALL_S: Final = 300.0
"""For a call to an agent: the longest copies its captures into an object store."""

NAMESPACE: Final = "loadgen"

ALLOWED: Final = "allowed is auto on a node of a cluster, or HOST:PORT of its head"

TOKEN_ALLOWED: Final = (
    "its own token, in a file (~/.ray/auth_token, or what RAY_AUTH_TOKEN_PATH names) or in RAY_AUTH_TOKEN, "
    "with RAY_AUTH_MODE=token"
)

INVALID_TOKEN: Final = b"InvalidAuthToken"
MOST_WORDS: Final = 300

ANSWER_S: Final = 10.0
"""For the head of the cluster to take a connection; Ray itself would try for minutes."""


class RemoteAgent:
    """What Ray runs on a node. The token comes with a call: what a constructor is given, Ray keeps."""

    def __init__(self, node: int) -> None:
        self._node = node
        self._agent: Any = None

    def open(self, token: bytes) -> tuple[str, int, dict[str, Any]]:
        """Listen for links; (host, port, facts)."""
        from loadgen import host
        from loadgen.arrow import prepare_pyarrow
        from loadgen.cluster.agent import Agent, facts

        prepare_pyarrow()
        host.keep_memory_private()  # the key comes here
        address = _ray().util.get_node_ip_address()
        self._agent = Agent(self._node, token, address)
        return address, self._agent.port, facts(self._node)

    def call(self, method: str, *arguments: Any) -> Any:
        """A method of the agent."""
        return getattr(self._agent, method)(*arguments)


class RayEngine:
    """The agents of a cluster, one a node. A context manager: leaving it ends them."""

    def __init__(self, address: str, nodes: int | None) -> None:
        self._address = address
        self._nodes = nodes
        self._actors: list[Any] = []
        self._group: Any = None

    def __enter__(self) -> "RayEngine":
        ray = _ray()
        if self._address.startswith("ray://"):
            raise UsageError(
                "--ray: a Ray Client address (ray://) has no way to the nodes; allowed is auto or HOST:PORT of the cluster, "
                "on one of its nodes (ray job submit runs a command there)"
            )
        _check_answers(self._address)
        with _quiet(), _kept_back() as complaints:
            try:
                ray.init(
                    address=self._address,
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    configure_logging=True,
                )
            except Exception as error:  # ConnectionError, ValueError, RuntimeError, by how it fails
                raise _refusal(self._address, error, complaints) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ray = _ray()
        with _quiet(), contextlib.suppress(Exception):  # whatever it says, it is over
            for actor in self._actors:
                ray.kill(actor)
            if self._group is not None:
                ray.util.remove_placement_group(self._group)
        with _quiet():
            ray.shutdown()

    def agents(self, token: bytes) -> list[tuple[str, int, dict[str, Any]]]:
        """Started, one a node: (host, port, agent.facts). UsageError where there are not as many nodes as asked for."""
        ray = _ray()
        alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        wanted = len(alive) if self._nodes is None else self._nodes
        if not wanted or wanted > len(alive):
            raise UsageError(
                f"--nodes: the cluster has {len(alive)} node{'s' if len(alive) != 1 else ''} with a CPU to give, "
                f"{wanted} {'are' if wanted != 1 else 'is'} asked for; allowed is one agent a node"
            )
        self._group = ray.util.placement_group([{"CPU": 1}] * wanted, strategy="STRICT_SPREAD")
        if not self._group.wait(PLACEMENT_S):
            raise UsageError(
                f"--nodes: the cluster did not give {wanted} nodes a CPU each within {PLACEMENT_S:g} s: they are busy with "
                "something else (ray status shows it)"
            )
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        remote = ray.remote(RemoteAgent)
        self._actors = [
            remote.options(
                num_cpus=1,
                max_concurrency=4,
                max_restarts=0,
                scheduling_strategy=strategy(self._group, placement_group_bundle_index=number),
            ).remote(number)
            for number in range(wanted)
        ]
        told = self._each({number: actor.open.remote(token) for number, actor in enumerate(self._actors)})
        for number, answer in told.items():
            if isinstance(answer, EngineError):
                raise UsageError(
                    f"--ray: no agent could be started on node {number}: {answer}; loadgen[ray] has to be installed on "
                    "every node, in the same version"
                )
        return [told[number] for number in range(wanted)]

    def call(self, method: str, arguments: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call a method of some agents, by node; gives what each returned, or the EngineError of one that is gone."""
        return self._each(
            {number: self._actors[number].call.remote(method, *given) for number, given in arguments.items()}
        )

    def _each(self, references: dict[int, Any]) -> dict[int, Any]:
        ray = _ray()
        found: dict[int, Any] = {}
        for number, reference in references.items():
            try:
                found[number] = ray.get(reference, timeout=CALL_S)
            except Exception as error:  # RayActorError, RayTaskError, GetTimeoutError: each tells it in its own way
                words = str(getattr(error, "cause", None) or error).strip().splitlines()
                found[number] = EngineError(words[-1] if words else type(error).__name__)
        return found


def _check_answers(address: str) -> None:
    """UsageError where nobody listens at HOST:PORT; what is none is left to Ray."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit() and int(port) < 65536):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except OSError as error:
        raise UsageError(f"--ray: nobody answers at {address} ({error.strerror or error}); {ALLOWED}") from None


def _refusal(address: str, error: Exception, complaints: IO[bytes]) -> UsageError:
    """Why the cluster is not joined. Of a token it does not take Ray complains alone, a missing one is the error."""
    words = " ".join(str(error).split())[:MOST_WORDS]
    complaints.seek(0)
    if INVALID_TOKEN in complaints.read():
        words = "it takes another token than the one here, or asks for one where there is none"
    elif type(error).__name__ == "AuthenticationError":
        words = words.partition(". ")[0]
    else:
        return UsageError(f"--ray: there is no cluster at {address!r} ({words}); {ALLOWED}")
    return UsageError(f"--ray: the cluster at {address} cannot be joined: {words}; allowed is {TOKEN_ALLOWED}")


def _ray() -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise UsageError("--ray: Ray is not installed; pip install 'loadgen[ray]' on every node") from None
    return ray


@contextmanager
def _kept_back() -> Iterator[IO[bytes]]:
    """A file that takes what is written to standard error meanwhile: Ray's core repeats itself there, a line a second."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        own = os.dup(2)
        try:
            os.dup2(kept.fileno(), 2)
            yield kept
        finally:
            os.dup2(own, 2)
            os.close(own)


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray warns of what is to come in its own next versions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
