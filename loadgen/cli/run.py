"""`loadgen run`: check the endpoint, make the load, analyse the capture, show what came out."""

import datetime
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from loadgen.cli.options import api_key, load_options, spec_of
from loadgen.errors import EndpointError, LoadgenError, RunError

SUSPECT_STATUS = 3

MAX_SENTENCE = 600
"""Characters of a server's words that are shown."""


@click.command(short_help="Load an endpoint and report TTFT, TPOT and throughput at each level of load.")
@load_options
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; default: runs/DATE-TIME.")
@click.option("--no-check", is_flag=True, help="Do not try the endpoint with one request first.")
@click.option("--strict", is_flag=True, help=f"Exit with status {SUSPECT_STATUS} when the verdict is suspect.")
def command(out: Path | None, no_check: bool, strict: bool, **flags: Any) -> None:
    """Load an endpoint and report TTFT, TPOT and throughput at each level of load.

    The key, if the endpoint wants one, is taken from OPENAI_API_KEY.

    Ctrl-C once ends the stage, drains and reports what there is; twice stops at once.
    """
    from rich.console import Console

    from loadgen import run

    spec = spec_of(flags)
    key = api_key()
    console = Console()
    run_dir = out or run.default_directory(datetime.datetime.now())
    job = run.Run(spec, run_dir, key=key)  # what cannot be done here is refused before anything is called
    model = spec.model if no_check and spec.model else _checked_model(job, key, no_check=no_check)
    if spec.calibrate_prompts:
        _calibrate(job, model, key, console)
    run.create_directory(run_dir)

    outcome_words = _make_load(job, model, console)
    summary = _analyse(run_dir)
    if summary is not None:
        from loadgen.cli.results import show

        show(summary, run_dir, console)
    if outcome_words:
        raise RunError(outcome_words)
    if strict and summary is not None and not summary["verdict"]["ok"]:
        raise SystemExit(SUSPECT_STATUS)


def _checked_model(job: Any, key: str | None, *, no_check: bool) -> str:
    """The model that was asked for, or the first one listed; tried with one request."""
    from loadgen import probe

    spec = job.spec
    with kept_secret(key):
        model: str = spec.model or probe.find_model(job.where, spec.api, key, connect_timeout_s=spec.connect_timeout_s)
        if not no_check:
            probe.check(
                job.where,
                spec.api,
                model,
                key,
                ignore_eos=spec.ignore_eos,
                connect_timeout_s=spec.connect_timeout_s,
            )
    return model


def _calibrate(job: Any, model: str, key: str | None, console: Any) -> None:
    from loadgen import probe, recipes

    spec = job.spec

    def counted(prompts: list[str]) -> list[int]:
        return probe.prompt_tokens(job.where, spec.api, prompts, model, key, connect_timeout_s=spec.connect_timeout_s)

    with kept_secret(key):
        found = job.calibration = recipes.calibrated(spec, counted)
    words = "" if found.tokens_per_word == 1 else f", and counts {found.tokens_per_word:.3f} tokens a word"
    console.print(f"calibrated: the endpoint adds {found.overhead_tokens} tokens to a prompt{words}", highlight=False)


def _make_load(job: Any, model: str, console: Any) -> str:
    """Run every stage; "" or the words of what went wrong. What was measured stays in the run directory."""
    from loadgen import host
    from loadgen.cli.progress import Progress

    try:
        with job.started(model), Progress(job.stages, console) as progress, interruptible(job, progress):
            host.step_back()  # the workers have been started: this process only watches from here on
            for number in job.stages_left:
                outcome = job.stage(number, progress)
                if outcome.ends_run:
                    break
    except LoadgenError as error:
        job.ended("failed", str(error))
        return str(error)
    job.ended(outcome.reason, outcome.words)
    return str(outcome.words) if outcome.reason == "failed" else ""


@contextmanager
def interruptible(job: Any, progress: Any) -> Iterator[None]:
    """SIGINT and SIGTERM stop the job meanwhile."""

    def on_interrupt(_signal: int, _frame: FrameType | None) -> None:
        if job.interrupt() == 1:
            progress.say("Interrupted: sending no more, waiting for what is in flight (again: stop at once).")

    before = {number: signal.signal(number, on_interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def kept_secret(key: str | None) -> Iterator[None]:
    """Blot out the key in an EndpointError: servers like to quote it."""
    try:
        yield
    except EndpointError as error:
        words = str(error).replace(key, "***") if key else str(error)
        raise EndpointError(
            error.error_class, words if len(words) <= MAX_SENTENCE else f"{words[:MAX_SENTENCE]}..."
        ) from None


def _analyse(run_dir: Path) -> dict[str, Any] | None:
    from analysis.summary import analyse, write
    from loadgen.schema import CaptureError

    try:
        analysis = analyse(run_dir)
        write(run_dir, analysis)
    except CaptureError as error:
        click.echo(f"loadgen: {error}", err=True)
        return None
    except OSError as error:
        click.echo(f"loadgen: the summary could not be written: {error}", err=True)
    return analysis.summary
