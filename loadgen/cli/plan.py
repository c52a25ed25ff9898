"""`loadgen plan`: what a run would do, without doing it."""

import math
from typing import TYPE_CHECKING, Any

import click

from loadgen.cli.durations import DurationType
from loadgen.cli.expectation import Prices, expectation, price_options
from loadgen.cli.options import LoadCommand, load_options, spec_of

if TYPE_CHECKING:
    from analysis.columns import Columns
    from loadgen.forecast import Forecast
    from loadgen.machines import Machine
    from loadgen.spec import Spec

NS_PER_S = 1_000_000_000
FIRST_ARRIVALS = 5


@click.command(
    cls=LoadCommand, short_help="Say what a run would do: arrivals, tokens, connections, memory, disk. Calls nothing."
)
@load_options()
@price_options
@click.option("--expect-ttft", type=DurationType(0), default="500ms", show_default=True, help="TTFT to reckon with.")
@click.option("--expect-tpot", type=DurationType(0), default="20ms", show_default=True, help="TPOT to reckon with.")
@click.option(
    "--machine",
    metavar="KEY=VALUE,...",
    help="What a machine is that makes the load, as cores=32,memory=128GB,network=25Gbit,disk=1GB,ports=28232,"
    "descriptors=1048576.  [default: as this one]",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(
    expect_ttft: int,
    expect_tpot: int,
    machine: str | None,
    as_json: bool,
    price_input: float | None,
    price_output: float | None,
    **flags: Any,
) -> None:
    """Say what `loadgen run` with the same flags would do, and how many machines it takes. Nothing is called or written.

    Arrivals come from the schedule and are exact; what depends on the endpoint is reckoned with --expect-ttft and
    --expect-tpot and marked with a ~.
    """
    from loadgen import host, machines, planner, recipes
    from loadgen.cli.needs import carried_by_a_core, needs_lines, needs_table, this_machine, workers_of
    from loadgen.job import warm_up

    spec = planner.resolved(spec_of(flags))
    tokens = recipes.first_output_tokens(spec) * recipes.speaking_share(spec)
    asked, spec = spec, warm_up.lengthened(spec, (expect_ttft + expect_tpot * max(tokens - 1, 0)) / NS_PER_S)
    told, planned, stages, workers = expected = expectation(spec, expect_ttft / NS_PER_S, expect_tpot / NS_PER_S)
    cost = Prices(price_input, price_output).cost(expected.total("input_tokens"), expected.total("output_tokens"))
    first_s = [
        [] if made.due_ns is None else [int(due_ns) / NS_PER_S for due_ns in made.due_ns[:FIRST_ARRIVALS]]
        for made in planned
    ]
    one = this_machine() if machine is None else machines.parse_machine(machine, this_machine())
    carried = carried_by_a_core()
    needed = machines.needs(told, one, workers_of(one), carried)
    if as_json:
        import orjson

        facts = {
            "spec": spec.to_json(),
            "workers": workers,
            "stages": [
                {**stage, **one.to_json(), "first_arrivals_s": first}
                for stage, one, first in zip(stages, told.stages, first_s, strict=True)
            ],
            "sending_s": told.total_s,
            "connections": told.connections,
            "ports": host.ephemeral_ports(),
            "descriptors": host.descriptor_limit(),
            "memory_bytes": told.memory_bytes,
            "disk_bytes": told.disk_bytes,
            "cost": cost,
            "machine": one.to_json(),
            "carried_by_a_core": carried._asdict(),
            "machines": needed.to_json(),
        }
        click.echo(orjson.dumps(facts, option=orjson.OPT_INDENT_2).decode())
        return

    from rich.console import Console

    console = Console()
    console.print(_table(asked, stages, told), highlight=False)
    for stage, first in zip(stages, first_s, strict=True):
        if first:
            digits = 4 if len({f"{due_s:.4f}" for due_s in first}) == len(first) else 6
            times = ", ".join(f"{due_s:.{digits}f}" for due_s in first)
            console.print(f"{stage['name']}: the first arrivals at {times} s", highlight=False, markup=False)
    for line in (*_followed(asked, stages, told), *_too_early(stages, told)):
        console.print(line, highlight=False, markup=False)
    if spec.targets:
        console.print(_targets(spec), highlight=False, markup=False)
    if needed.machines == 1:
        for line in _lines(told, workers if machine is None else needed.workers_a_machine, one):
            console.print(line, highlight=False, markup=False)
    if needed.machines > 1 or machine is not None:
        console.print(needs_table(needed), highlight=False)
    for line in needs_lines(told, needed, one, carried, stages[needed.stage]["name"]):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if cost is not None:
        about = "" if expected.is_exact else "~"
        console.print(f"cost: {about}{cost:,.2f} at these prices", highlight=False, markup=False)


def _table(asked: "Spec", stages: list[dict[str, Any]], told: "Forecast") -> "Columns":
    from analysis.columns import Columns

    table = Columns()
    table.add_column("load", overflow="fold", max_width=24)
    for title in ("sends for", "arrivals", "requests", "input\ntokens", "output\ntokens", "connec-\ntions"):
        table.add_column(title, justify="right", no_wrap=True)
    for was, stage, one in zip(asked.stages, stages, told.stages, strict=True):
        followed = "~" if was.warmup_s != stage["warmup_s"] else ""
        about = followed if one.is_exact else "~"
        guessed_time = "~" if stage["duration_s"] is None else followed
        guessed_connections = "~" if one.arrivals is not None else ""
        table.add_row(
            stage["name"],
            f"{guessed_time}{one.sending_s:,.1f} s",
            "-" if one.arrivals is None else f"{followed}{one.arrivals:,}",
            f"{about}{one.requests:,}",
            f"{about}{one.input_tokens:,}",
            f"{about}{one.output_tokens:,}",
            f"{guessed_connections}{one.connections:,}",
        )
    return table


def _followed(asked: "Spec", stages: list[dict[str, Any]], told: "Forecast") -> list[str]:
    """Which warm-ups are as long as they are because of how long responses are taken to last."""
    return [
        f"{stage['name']}: warms up for {stage['warmup_s']:,.3g} s, for {_unit(stage['load'])} is taken to last "
        f"{one.unit_s:,.3g} s; the run goes by what its check sees, or by --warmup"
        for was, stage, one in zip(asked.stages, stages, told.stages, strict=True)
        if was.warmup_s != stage["warmup_s"]
    ]


def _unit(load: dict[str, Any]) -> str:
    return "a session" if load.get("unit") == "session" else "a response"


def _too_early(stages: list[dict[str, Any]], told: "Forecast") -> list[str]:
    """Where the window of an open loop would begin long before the first responses have ended."""
    from analysis.verdict.load import MOST_FILLING_SHARE, lacking_share

    lines = []
    for stage, one in zip(stages, told.stages, strict=True):
        load, window_s = stage["load"], stage["duration_s"]
        if load["mode"] != "rate" or "profile" in load or load.get("max_in_flight") or not window_s:
            continue
        before_s = stage["ramp_up_s"] + stage["warmup_s"]
        if lacking_share(one.unit_s, before_s, window_s) > MOST_FILLING_SHARE:
            lines.append(
                f"{stage['name']}: {_unit(load)} is taken to last {one.unit_s:,.3g} s, and the window begins after "
                f"{before_s:,.3g} s, when the load is still rising; --warmup {math.ceil(one.unit_s)}s"
            )
    return lines


def _targets(spec: "Spec") -> str:
    from loadgen.spec import targets

    weights, names = targets.weights(spec), targets.names(spec)
    parts = []
    for number, (name, weight) in enumerate(zip(names, weights, strict=True)):
        urls = len(targets.urls(spec, number))
        over = f" over {urls} URLs ({spec.balance})" if urls > 1 else ""
        parts.append(f"{name} {100 * weight / sum(weights):.1f} %{over}")
    return f"targets: {', '.join(parts)}"


def _lines(told: "Forecast", workers: int, machine: "Machine") -> list[str]:
    """What it takes of one machine that is enough."""
    limits = f"descriptors: {machine.descriptors or 0:,} a worker"
    if machine.ports is not None:
        limits = f"ports: {told.connections:,} of {machine.ports:,} to one address; {limits}"
    return [
        f"{told.total_s:,.0f} s of sending by {workers} worker{'s' if workers > 1 else ''}, "
        f"{told.memory_bytes / 1e6:,.0f} MB of memory, {told.disk_bytes / 1e6:,.1f} MB of capture",
        limits,
    ]
