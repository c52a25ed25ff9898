"""Runs for the tests of this folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
from accounts import Ran, accounts_are_even, ran


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def run(run_dir: Path) -> Callable[..., Ran]:
    """ran() into this test's own directory, with the accounts checked."""

    def run_it(url: str, *arguments: object, page: bool = False, **variables: str) -> Ran:
        done = ran(url, run_dir, *arguments, page=page, **variables)
        if done.summary:
            accounts_are_even(done)
        return done

    return run_it
