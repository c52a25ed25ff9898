"""Load and its results in Python: for notebooks, scripts and tests. Nothing is printed unless `progress` asks for it.

`run`, `sweep` and `saturate` do what the commands of that name do, and give a Result. Keyword arguments are the settings by
their names in a spec file (docs/load.md): `concurrency=[1, 2, 4]`, `duration="30s"` or `duration=30` (seconds),
`slo={"ttft:p99": "500ms"}`. None is as good as not given. Each takes besides

    spec        a spec file, or the directory of a run to make again; settings win over it
    out         the run directory; by default runs/DATE-TIME
    api_key     by default OPENAI_API_KEY of the environment, or the API's own variable; it is written nowhere
    check       False: do not try the endpoint with one request first
    progress    True: print a line a stage, and one a minute while it goes on

and raises UsageError, EndpointError or RunError, never SystemExit. All of them work under a running event loop (Jupyter,
Databricks); the forms that end in `_async` give that loop back meanwhile. Ctrl-C once ends the stage and drains, and what
was measured until then is the result (`result.interrupted`); twice cancels what is in flight.
"""

import inspect
import warnings
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from loadgen.errors import EndpointError, RunError, UsageError
from loadgen.notebook.asked import in_python, seconds, spec_of
from loadgen.notebook.errand import Errand
from loadgen.notebook.result import Result, load

if TYPE_CHECKING:
    from rich.console import Console

    from loadgen.job import Job
    from loadgen.spec import Spec

__all__ = ["Result", "load", "run", "run_async", "saturate", "saturate_async", "sweep", "sweep_async"]

PathLike = str | Path

Begins = Callable[["Job"], None]

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])

LEAST_BUDGET_S = 10.0

MODES = ("concurrency", "rate")


def _waited(name: str, begun: Callable[P, Errand]) -> Callable[P, Result]:
    """A function of that name, with the arguments and the words of `begun`, that waits for the result."""

    def call(*args: P.args, **settings: P.kwargs) -> Result:
        return begun(*args, **settings).wait()

    begun.__qualname__ = name  # so Python calls it where an argument is wrong
    return _named(call, name, begun, begun.__doc__)


def _awaited(name: str, begun: Callable[P, Errand], words: str) -> Callable[P, Coroutine[Any, Any, Result]]:
    """The same for a running event loop."""

    async def call(*args: P.args, **settings: P.kwargs) -> Result:
        return await begun(*args, **settings).finished()

    return _named(call, name, begun, words)


def _named(call: F, name: str, begun: Callable[..., Errand], words: str | None) -> F:
    """As help() and a notebook's completion show it."""
    call.__name__ = call.__qualname__ = name
    call.__doc__ = words
    call.__annotations__ = begun.__annotations__ | {"return": Result}
    call.__signature__ = inspect.signature(begun).replace(return_annotation=Result)  # type: ignore[attr-defined]
    return call


def _run(
    *,
    spec: PathLike | None = None,
    out: PathLike | None = None,
    api_key: str | None = None,
    check: bool = True,
    progress: bool = False,
    **settings: Any,
) -> Errand:
    """Load an endpoint: a stage for each level of `concurrency` or `rate`."""

    def work(begins: Begins) -> Result:
        from loadgen.job import every_stage, make_load, prepared

        asked = spec_of(settings, spec, {})
        job = prepared(
            asked,
            _path(out),
            _console(progress),
            key=api_key,
            no_check=not check,
            wants_baseline=asked.cooldown_s > 0 and check,
        )
        begins(job)
        make_load(job, every_stage, command="run")
        return _result(job)

    return Errand(_in_python(work))


run = _waited("run", _run)
run_async = _awaited("run_async", _run, "As `run`, while the event loop goes on. Cancelling the task stops the run.")


def _sweep(
    *,
    check_requests: int = 10,
    resume: PathLike | None = None,
    spec: PathLike | None = None,
    out: PathLike | None = None,
    api_key: str | None = None,
    check: bool = True,
    progress: bool = False,
    **settings: Any,
) -> Errand:
    """A curve over levels of load: `concurrency` or `rate` as a list, or a range as in "1..64x2".

    `check_requests` warm the endpoint up first, and show how it counts a prompt's tokens. `resume` goes on with a sweep that
    was interrupted, and takes no settings: they are those of that run.
    """

    def work(begins: Begins) -> Result:
        from loadgen.job import prepared
        from loadgen.job.sweep import DEFAULTS, MOST_CHECK_REQUESTS, resumed, sweep, with_warm_up

        console = _console(progress)
        if resume is not None:
            others = {"out": out, "spec": spec} | settings
            if given := sorted(name for name, value in others.items() if value is not None):
                raise UsageError(f"{given[0]}: resume goes on with what the run asked for, where it was; leave it out")
            job = resumed(Path(resume), console, key=api_key, no_check=not check)
        else:
            if not isinstance(check_requests, int) or not 0 <= check_requests <= MOST_CHECK_REQUESTS:
                raise UsageError(
                    f"check_requests: {check_requests!r} is not allowed; allowed is 0 to {MOST_CHECK_REQUESTS}"
                )
            asked = with_warm_up(spec_of(settings, spec, DEFAULTS), check_requests)
            job = prepared(asked, _path(out), console, key=api_key, no_check=not check, wants_baseline=True)
        begins(job)
        sweep(job)
        return _result(job)

    return Errand(_in_python(work))


sweep = _waited("sweep", _sweep)
sweep_async = _awaited(
    "sweep_async",
    _sweep,
    "As `sweep`, while the event loop goes on. Cancelling the task stops the sweep; `resume` goes on with it.",
)


def _saturate(
    *,
    mode: str = "concurrency",
    budget: str | float = "10m",
    start: float | None = None,
    most: float | None = None,
    spec: PathLike | None = None,
    out: PathLike | None = None,
    api_key: str | None = None,
    progress: bool = False,
    **settings: Any,
) -> Errand:
    """How much the endpoint can take: with `slo` the highest load within the objectives, without the knee.

    The answer is in `Result.saturation`. `mode` is "concurrency" or "rate", `budget` how long the search may take, `start`
    and `most` the first and the highest load.
    """

    def work(begins: Begins) -> Result:
        from loadgen.job import prepared
        from loadgen.job.saturate import saturate

        asked, budget_s = _searched(mode, budget, start, most, spec, settings), seconds("budget", budget)
        job = prepared(
            replace(asked, stages=()),
            _path(out),
            _console(progress),
            key=api_key,
            no_check=False,
            wants_baseline=True,
        )
        begins(job)
        saturate(job, asked.stages[0], mode, budget_s, start, most)
        return _result(job)

    return Errand(_in_python(work))


saturate = _waited("saturate", _saturate)
saturate_async = _awaited(
    "saturate_async", _saturate, "As `saturate`, while the event loop goes on. Cancelling the task stops the search."
)


def _searched(
    mode: str,
    budget: str | float,
    start: float | None,
    most: float | None,
    spec: PathLike | None,
    settings: dict[str, Any],
) -> "Spec":
    """The spec of a search. UsageError for an argument that it cannot do anything with."""
    from loadgen.job.saturate import CHOSEN_HERE, searched

    if mode not in MODES:
        raise UsageError(f"mode: {mode!r} is not known; allowed is {' or '.join(map(repr, MODES))}")
    if seconds("budget", budget) < LEAST_BUDGET_S:
        raise UsageError(f"budget: {budget!r} is too short; allowed is at least {LEAST_BUDGET_S:g} s")
    for name, value in (("start", start), ("most", most)):
        if value is not None and not (isinstance(value, int | float) and 0 < value < float("inf")):
            raise UsageError(f"{name}: {value!r} is no load; allowed is a number above 0")
    if given := sorted(name for name in CHOSEN_HERE if settings.get(name) is not None):
        raise UsageError(f"{given[0]}: the search chooses this itself; leave it out")
    return searched(spec_of(settings | {mode: 1}, spec, {}))


def _result(job: "Job") -> Result:
    """What was measured. RunError, with the run's directory, for a run that failed."""
    from loadgen.job import analysed

    analysis = analysed(job)
    run_dir = job.run.run_dir if analysis is not None else None
    if job.words:
        raise RunError(job.words, run_dir)
    if analysis is None:
        if job.interrupted or job.run.is_interrupted:
            raise KeyboardInterrupt
        raise RunError("; ".join(job.complaints))
    for words in job.complaints:
        warnings.warn(words, RuntimeWarning, stacklevel=2)
    return Result(job.run.run_dir, analysis)


def _in_python(work: Callable[[Begins], Result]) -> Callable[[Begins], Result]:
    """`work`, with refusals that speak of arguments and not of flags."""

    def told(begins: Begins) -> Result:
        try:
            return work(begins)
        except UsageError as error:
            raise UsageError(in_python(str(error))) from None
        except EndpointError as error:
            raise EndpointError(error.error_class, in_python(str(error))) from None

    return told


def _console(progress: bool) -> "Console":
    from rich.console import Console

    return Console(quiet=not progress, force_terminal=False, force_jupyter=False, width=120)


def _path(out: PathLike | None) -> Path | None:
    return None if out is None else Path(out)
