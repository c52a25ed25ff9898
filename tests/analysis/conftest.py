"""The run that all exports are tested on."""

import pytest
from everything import MARKS, PLANS, SLO, drawn_rows
from synthetic import write_run


@pytest.fixture(scope="session")
def everything():
    """The rows of `run_dir`."""
    return drawn_rows()


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory, everything):
    spec = {"model": "m", "api": "chat", "slo": SLO}
    return write_run(tmp_path_factory.mktemp("everything") / "run", everything, PLANS, MARKS, spec=spec, batch_rows=50)
