"""What a run is going to do, as `plan` tells it and as a run against another machine states it first."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from loadgen.cli.numbers import NumberType

if TYPE_CHECKING:
    from loadgen.forecast import Forecast
    from loadgen.schedule.stage import Schedule
    from loadgen.spec import Spec

TTFT_S: Final = 0.5
TPOT_S: Final = 0.02
"""To reckon with where nothing else is known."""

MOST_PRICE: Final = 1e9


class Prices(NamedTuple):
    """Of a million tokens, in whatever currency; None where it was not given."""

    input: float | None
    output: float | None

    def cost(self, input_tokens: float, output_tokens: float) -> float | None:
        """None without a price."""
        if self.input is None and self.output is None:
            return None
        return ((self.input or 0.0) * input_tokens + (self.output or 0.0) * output_tokens) / 1e6


class Expectation(NamedTuple):
    """The forecast of a spec on this machine, and what it was reckoned from."""

    told: "Forecast"
    planned: "list[Schedule]"
    stages: list[dict[str, Any]]
    workers: int

    @property
    def is_exact(self) -> bool:
        """Whether the number of requests follows from the plan alone."""
        return all(stage.is_exact for stage in self.told.stages)

    def total(self, name: str) -> int:
        """Over all stages."""
        return sum(getattr(stage, name) for stage in self.told.stages)


def expectation(
    spec: "Spec", ttft_s: float = TTFT_S, tpot_s: float = TPOT_S, workers: int | None = None
) -> Expectation:
    """Of a resolved spec, on so many workers; None: those of this machine. UsageError where it cannot be run here."""
    from loadgen import planner, recipes
    from loadgen.dialects.credentials import NOBODY
    from loadgen.forecast import Expected, forecast
    from loadgen.host import most_connections
    from loadgen.local_run import cores
    from loadgen.spec import targets

    planned = planner.schedules(spec)
    workers = len(cores(spec, planned)) if workers is None else workers
    plans = [planner.worker_stages(spec, planned, worker, workers, most_connections()) for worker in range(workers)]
    planner.ways(spec, [NOBODY] * len(targets.each(spec)))
    pools = [planner.pool(one, one.model or "model") for one in targets.each(spec)]
    if recipes.has_script(spec):
        recipes.try_script(spec, planner.wordings(spec))
    told = forecast(spec, planned, plans, pools, Expected(ttft_s, tpot_s), recipes.means(spec, workers))
    return Expectation(told, planned, planner.stages(spec, planned), workers)


def price_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--price-input and --price-output."""
    for side in ("output", "input"):
        command = click.option(
            f"--price-{side}",
            type=NumberType(MOST_PRICE),
            metavar="PRICE",
            help=f"What a million {side} tokens cost, for an estimate of the whole.",
        )(command)
    return command
