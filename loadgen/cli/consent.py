"""Load on another machine is stated before it is made, and asked about: what `run`, `sweep` and `saturate` share."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from loadgen.cli.expectation import TPOT_S, TTFT_S, Prices, expectation, price_options
from loadgen.errors import RunError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from loadgen.local_run import Run
    from loadgen.spec import Spec

Statement = Callable[["Run", Prices], list[str]]
"""Sentences on the load that a run is about to make; the first one is enough to know its size."""


def safety_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--yes and the prices."""
    words = "Make the load on another machine without asking; it is stated all the same."
    return price_options(click.option("--yes", is_flag=True, help=words)(command))


def agreement(console: "Console", prices: Prices, *, yes: bool, state: Statement) -> "Callable[[Run], None]":
    """What `prepared` asks before anything is sent. UsageError where nobody can be asked, RunError after a no."""

    def agree(run: "Run") -> None:
        names = _elsewhere(run.spec)
        if not names:
            return
        told = state(run, prices)
        name, are = ", ".join(map(_printable, names)), "is" if len(names) == 1 else "are"
        if not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(
                f"--yes: {name} {are} not this machine, and there is no terminal to ask on whether this load is meant: "
                f"{told[0]}; give --yes if it is"
            )
        console.print(f"This load goes to {name}, which {are} not this machine:", markup=False, highlight=False)
        for line in told:
            console.print(f"  {line}", markup=False, highlight=False)
        if not yes:
            console.print("Make it? [y/N]: ", end="", markup=False, highlight=False)
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                raise RunError("not confirmed: nothing was sent")

    return agree


def _elsewhere(spec: "Spec") -> list[str]:
    """The hosts of all targets that are not this machine."""
    from urllib.parse import urlsplit

    from loadgen.loopback import is_loopback
    from loadgen.spec import targets

    urls = [url for number in range(len(targets.each(spec))) for url in targets.urls(spec, number)]
    found = []
    for host in dict.fromkeys(urlsplit(url).hostname or "" for url in urls):
        here = is_loopback(host)
        # A name without an address is nobody's, but where a proxy is to look it up.
        if not here and not (here is None and spec.proxy is None):
            found.append(host)
    return found


def of_stages(run: "Run", prices: Prices) -> list[str]:
    """The statement of a run whose stages are known."""
    from loadgen.job import warm_up

    left = replace(run.spec, stages=tuple(run.spec.stages[number] for number in run.stages_left))
    spec = warm_up.longest(left)
    expected = expectation(spec, workers=run.workers)
    about, most = "" if expected.is_exact else "~", "" if spec == left else "at most "
    input_tokens, output_tokens = expected.total("input_tokens"), expected.total("output_tokens")
    connections = f"{expected.told.connections:,} connection{'s' if expected.told.connections != 1 else ''}"
    lines = [
        f"{most}{about}{expected.total('requests'):,} requests, {about}{input_tokens:,} input and {about}{output_tokens:,} "
        f"output tokens, up to {connections}, {expected.told.total_s:,.0f} s of sending"
    ]
    cost = prices.cost(input_tokens, output_tokens)
    if cost is not None:
        lines.append(f"cost: {about}{cost:,.2f} {_at(prices)}")
    if about:
        lines.append(
            f"~ is reckoned with a TTFT of {TTFT_S * 1000:g} ms and a TPOT of {TPOT_S * 1000:g} ms: a faster endpoint "
            "answers more in a closed loop"
        )
    return lines


def _at(prices: Prices) -> str:
    parts = [f"{price:g} a million {side} tokens" for side, price in prices._asdict().items() if price is not None]
    return f"(at {' and '.join(parts)})"


def of_search(mode: str, budget_s: float, most: float | None) -> Statement:
    """The statement of a search, whose load depends on what the endpoint takes."""

    def state(run: "Run", prices: Prices) -> list[str]:
        from loadgen import recipes

        unit = "requests in flight" if mode == "concurrency" else "requests a second"
        limit = most
        if limit is None and mode == "concurrency":
            limit = float(run.place.most_connections * run.workers)
        words = "as many" if limit is None else f"up to {limit:,.6g}"
        mean = recipes.means(run.spec, run.workers)
        lines = [
            f"as much as it takes: {words} {unit} for up to {budget_s:,.0f} s (--most and --budget bound it)",
            f"a request has about {mean.prefix_tokens + mean.input_tokens:,.0f} input and {mean.output_tokens:,.0f} output "
            "tokens",
        ]
        cost = prices.cost(mean.prefix_tokens + mean.input_tokens, mean.output_tokens)
        if cost is not None:
            lines.append(f"cost: about {1000 * cost:,.2f} for every 1,000 requests {_at(prices)}")
        return lines

    return state


def _printable(host: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in host)
