"""One simulator for the vendors' own clients, and what its log says of a response.

That they read what it writes is how we know that the formats are right: nothing here is ours on the client's side.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asked import until

from loadgen.simulator.process import Served, serve

KEY = "s3cret"


@pytest.fixture(scope="package")
def served() -> Iterator[Served]:
    """Every answer has two tokens of reasoning where there is a place for them; the key is asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMULATOR_KEY", KEY)
        options = ("--step", "1ms", "--flush", "20ms", "--api-key-env", "SIMULATOR_KEY", "--prefix-cache", "100000")
        with serve(*options, "--reasoning-tokens", "2") as served:
            yield served


@pytest.fixture(scope="package")
def root(served: Served) -> str:
    """The address without the path of OpenAI's API."""
    return served.root


@pytest.fixture
def truth(served: Served) -> Callable[[str], dict[str, Any]]:
    """truth(response_id) -> its row of the log, which is written soon after its end."""

    def truth(response_id: str) -> dict[str, Any]:
        def logged() -> list[dict[str, Any]]:
            return [row for row in served.truth().to_pylist() if row["response_id"] == response_id]

        (row,) = until(logged, f"{response_id} in the log")
        assert row["ended"] == "complete"
        return row

    return truth


@pytest.fixture
def last_truth(served: Served) -> Callable[[], dict[str, Any]]:
    """For APIs whose answers carry no id: the row of the request that has just ended."""
    began_ns = time.monotonic_ns()

    def last_truth() -> dict[str, Any]:
        def logged() -> list[dict[str, Any]]:
            return [row for row in served.truth().to_pylist() if row["request_read_ns"] > began_ns]

        row = until(logged, "a new row in the log")[-1]
        assert row["ended"] == "complete"
        return row

    return last_truth


def words(first: int, end: int) -> str:
    """The text of tokens number `first` up to `end`."""
    return " ".join(f"w{number}" for number in range(first, end))


@pytest.fixture(name="words")
def words_() -> Callable[[int, int], str]:
    return words
