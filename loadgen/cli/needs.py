"""How `loadgen plan` says what machines a load needs."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from analysis.columns import Columns
    from loadgen.forecast import Forecast
    from loadgen.machines import Carried, Machine, Need, Needs


def this_machine() -> "Machine":
    """The machine that this runs on; of its network and disk nothing is known."""
    from loadgen import host
    from loadgen.machines import Machine

    usable, quota = len(host.usable_cores()), host.cpu_quota()
    return Machine(
        cores=usable if quota is None else min(usable, max(int(quota), 1)),
        memory_bytes=host.memory_bytes(),
        ports=host.ephemeral_ports(),
        descriptors=host.descriptor_limit(),
    )


def workers_of(machine: "Machine") -> int:
    """How many workers a run makes of so many cores."""
    from loadgen.local_run import choose_cores

    return len(choose_cores(None, None, list(range(machine.cores)), None))


def carried_by_a_core() -> "Carried":
    """What `loadgen doctor` found on this machine, or else what was measured on another."""
    from loadgen import __version__, host, machines
    from loadgen.doctor import floor
    from loadgen.job import environment

    told = floor.known(environment.cache_folder(), floor.key(host.facts(), __version__))
    if told and told.get("tokens_per_s_a_core"):
        limit = "" if told.get("limit") else ", the most that was tried"
        return machines.Carried(told["tokens_per_s_a_core"], f"loadgen doctor on this machine, {told['at']}{limit}")
    source = "docs/scale.md (loadgen doctor measures this machine)"
    return machines.Carried(machines.TOKENS_PER_S_A_CORE, source)


def needs_table(needed: "Needs") -> "Columns":
    """A row a resource; the one that runs out first is marked."""
    from analysis.columns import Columns

    table = Columns()
    table.add_column("takes")
    for title in ("in all", "a machine has", "machines"):
        table.add_column(title, justify="right", no_wrap=True)
    for need in needed.needs:
        is_limit = need is needed.limit
        table.add_row(
            f"{need.name} <- the limit" if is_limit else need.name,
            _amount(need, need.needed),
            "?" if need.a_machine is None else _amount(need, need.a_machine),
            "-" if need.machines is None else f"{need.machines:,}",
        )
    return table


MORE: Final = {
    "ports": "widen net.ipv4.ip_local_port_range, or load several addresses: there are so many to each",
    "descriptors": "raise the hard limit (ulimit -Hn, LimitNOFILE), or give more workers: there are so many to each",
}
"""How a machine comes to have more of it."""


def needs_lines(told: "Forecast", needed: "Needs", machine: "Machine", carried: "Carried", stage: str) -> list[str]:
    """The answer, and what it was reckoned from."""
    limit = needed.limit
    assert limit.a_machine is not None
    kind = f"{machine.cores} core{'s' if machine.cores > 1 else ''}, {needed.workers_a_machine} of them with a worker"
    lines = []
    if needed.machines == 1:
        share = limit.needed / limit.a_machine
        lines.append(f"1 machine ({kind}) is enough: {stage} takes {share:.1%} of its {limit.name}, the nearest limit")
    else:
        lines.append(f"{needed.machines:,} machines ({kind}) are needed by {stage}; the limit is {limit.name}")
        lines.append(f"{told.total_s:,.0f} s of sending, {told.disk_bytes / 1e6:,.0f} MB of captures in all")
        if limit.name in MORE:
            lines.append(f"{limit.name}: {MORE[limit.name]}")
        lines.append(
            f"who puts the results together needs {needed.driver_bytes / 1e6:,.0f} MB for the analysis; the tokens stay "
            "where they came"
        )
    lines.append(f"a core is taken to carry {carried.tokens_per_s:,.0f} tokens/s: {carried.source}")
    return lines


def _amount(need: "Need", amount: float) -> str:
    if need.unit == "bytes":
        return f"{amount / 1e9:,.1f} GB"
    if need.unit == "bytes_per_s":
        return f"{amount / 1e6:,.1f} MB/s"
    return f"{amount:,.2f}" if amount < 10 and amount != int(amount) else f"{amount:,.0f}"
