"""A run on several agents, each a process of this machine."""

import io
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import agents
import pytest
from agents import TOKEN, Processes, Where
from rich.console import Console

from analysis.summary import Analysis, summarize
from loadgen.cluster.fleet import Fleet
from loadgen.cluster.link import MOST_BYTES, Link
from loadgen.job import Job, counted, every_stage, make_load, prepared
from loadgen.spec import Spec


@dataclass
class Driven:
    """What a run on several nodes left: the job, what was said meanwhile, and a way to its summary."""

    job: Job
    said: str
    analysis: Analysis | None
    """Where it was asked for."""

    @property
    def run_dir(self) -> Path:
        return self.job.run.run_dir

    @property
    def facts(self) -> dict[str, Any]:
        import json

        told: dict[str, Any] = json.loads((self.run_dir / "run.json").read_bytes())
        return told

    def summary(self) -> dict[str, Any]:
        return summarize(self.run_dir)


Drive = Callable[..., Driven]


@pytest.fixture
def drive(tmp_path, monkeypatch) -> Drive:
    """Makes a run as `loadgen run --ray` does, on as many agents as `wheres`; `meanwhile` gets (engine, fleet, job)."""

    def driven(
        asked: Spec,
        wheres: Sequence[Where] = (Where(),) * 3,
        *,
        out: Path | None = None,
        analysed: bool = False,
        meanwhile: Callable[[Processes, Fleet, Job], None] | None = None,
        load: Callable[[Job], object] = lambda job: make_load(job, every_stage, command="run"),
        **more: Any,
    ) -> Driven:
        words = io.StringIO()
        monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))  # of the agents: where they write
        (tmp_path / "temporary").mkdir(exist_ok=True)
        console = Console(file=words, width=200)
        with agents.processes(*wheres) as engine, Fleet(engine, TOKEN, **more) as fleet:
            job = prepared(asked, out or tmp_path / "run", console, no_check=True, place=fleet)
            if meanwhile is not None:
                meanwhile(engine, fleet, job)
            load(job)
            analysis = counted(job.run) if analysed else None
        return Driven(job, words.getvalue(), analysis)

    return driven


@pytest.fixture
def pair():
    """Both ends of a link whose sides know each other."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    ends = Link(near), Link(far)
    for end in ends:
        end.most_bytes = MOST_BYTES
    yield ends
    for end in ends:
        end.close()
