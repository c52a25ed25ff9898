"""The result as tables for a terminal of 80 columns; makes rich objects, prints nothing."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from analysis.confidence import sample_floor
from analysis.verdict.nodes import slow

Facts = Mapping[str, Any]

PERCENTILE_COLUMNS: Final = (
    ("TTFT\np50 ms", "ttft_ms", "p50"),
    ("TTFT\np99 ms", "ttft_ms", "p99"),
    ("TPOT\np50 ms", "tpot_ms", "p50"),
    ("TPOT\np99 ms", "tpot_ms", "p99"),
    ("ITL\np99 ms", "itl_ms", "p99"),
)

FROM_DUE_COLUMNS: Final = (
    ("late\np50 ms", "lateness_us", "p50"),
    ("late\np99 ms", "lateness_us", "p99"),
    ("TTFT\np50 ms", "ttft_intended_ms", "p50"),
    ("TTFT\np99 ms", "ttft_intended_ms", "p99"),
    ("E2E\np99 ms", "e2e_intended_ms", "p99"),
)
"""Of the open-loop table; the latencies are from the intended time."""

MOST_TURNS: Final = 12
"""Rows a stage in the table of turns; longer sessions are in summary.json."""


def plain(words: object) -> str:
    """Text from outside (model names, a server's words) without control characters, which could steer the terminal."""
    return "".join(char if char.isprintable() else " " for char in str(words))


def number(value: float | None) -> str:
    """About four significant digits, thousands apart; `-` for null."""
    if not value:
        return "-" if value is None else "0"
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def short(value: float | None) -> str:
    """As `number`, in at most six characters: with `k` or `M` where it would take more."""
    for unit, size, least in (("M", 1e6, 9_999_500), ("k", 1e3, 99_999.5)):
        if value is not None and value >= least:
            return f"{value / size:,.0f}{unit}"
    return number(value)


def plain_table(padding: int = 1) -> Table:
    """An empty table in the style of all; `padding` comes on top of the one space that parts the columns."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, padding, 0, 0), show_edge=False)


def _table(load_width: int, padding: int = 1) -> Table:
    """With only its first column, the load."""
    table = plain_table(padding)
    table.add_column("\nload", overflow="fold", max_width=load_width)
    return table


def stage_table(stages: Sequence[Facts]) -> Table:
    """A row a stage. A percentile without enough samples is dim and has a ~ before it."""
    table = _table(16)
    for title, *_ in PERCENTILE_COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("output\ntokens/s", justify="right", no_wrap=True)
    table.add_column("\nreq/s", justify="right", no_wrap=True)
    has_inputs = any(stage.get("inputs_per_s") is not None for stage in stages)
    if has_inputs:
        table.add_column("inputs\n/s", justify="right", no_wrap=True)
    table.add_column("\nerrors", justify="right", no_wrap=True)
    for stage in stages:
        failed = stage["requests"]["failed"]
        table.add_row(
            Text(plain(stage["name"])),
            *(_percentile(stage[metric], name) for _, metric, name in PERCENTILE_COLUMNS),
            number(stage["output_tokens_per_s"]),
            number(stage["requests_per_s"]),
            *([number(stage["inputs_per_s"])] if has_inputs else []),
            Text(f"{failed:,}", style="red" if failed else ""),
        )
    return table


def target_table(stages: Sequence[Facts]) -> Table | None:
    """A row a target, and one for each endpoint of a target that has several; None where there is one with one URL."""
    stages = [stage for stage in stages if stage.get("by_target")]
    if not stages:
        return None
    table = _table(12, padding=0)
    table.add_column("\ntarget", overflow="fold", max_width=22)
    for title in ("\nsent", "TTFT\np50", "TTFT\np99", "TPOT\np50", "ITL\np99", "out\ntok/s", "\nreq/s", "\nerrors"):
        table.add_column(title, justify="right", no_wrap=True)
    for stage in stages:
        for row, (name, part, style) in enumerate(_parts(stage)):
            failed = part["requests"]["failed"]
            table.add_row(
                Text(plain(stage["name"]) if row == 0 else ""),
                Text(plain(name), style=style),
                _count(part["requests"]["sent"]),
                *(
                    _percentile(part[f"{metric}_ms"], percentile, as_text=short)
                    for metric, percentile in (("ttft", "p50"), ("ttft", "p99"), ("tpot", "p50"), ("itl", "p99"))
                ),
                short(part["output_tokens_per_s"]),
                short(part["requests_per_s"]),
                Text(_count(failed), style="red" if failed else ""),
            )
    return table


def _parts(stage: Facts) -> list[tuple[str, Facts, str]]:
    """(what it is called, what is told of it, style): targets, and below each its endpoints. One alone is the stage."""
    parts: list[tuple[str, Facts, str]] = []
    indent, style = ("  ", "dim") if len(stage["by_target"]) > 1 else ("", "")
    for target in stage["by_target"]:
        if indent:
            parts.append((target["name"], target, ""))
        parts += [(indent + one["url"].partition("://")[2], one, style) for one in target["by_endpoint"] or ()]
    return parts


def open_loop_table(stages: Sequence[Facts]) -> Table | None:
    """What became of the arrivals, and the latencies from their intended times; None without an open-loop stage."""
    scheduled = [stage for stage in stages if is_open_loop(stage)]
    if not scheduled:
        return None
    table = _table(10, padding=0)
    for name in ("offered", "sent", "late", "dropped"):
        table.add_column(f"\n{name}", justify="right", no_wrap=True)
    for title, *_ in FROM_DUE_COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    for stage in scheduled:
        requests, dropped = stage["requests"], stage["requests"]["dropped"]
        table.add_row(
            Text(plain(stage["name"])),
            *(_count(requests[name]) for name in ("offered", "sent", "late")),
            Text(_count(dropped), style="red" if dropped else ""),
            *(
                _percentile((stage | stage["client"])[metric], name, 1_000 if metric.endswith("_us") else 1, short)
                for _, metric, name in FROM_DUE_COLUMNS
            ),
        )
    return table


def curve_table(curve: Sequence[Facts]) -> Table:
    """A row a point of the curve; latencies in ms, in open loop from the intended time."""
    table = _table(12, padding=0)
    titles = (
        "req/s",
        "in\ntok/s",
        "out\ntok/s",
        "+-",
        "tok/s\na user",
        "TTFT\np50",
        "TTFT\np99",
        "TPOT\np50",
        "E2E\np50",
    )
    for title in (*titles, "E2E\np99", "failed"):
        table.add_column(title if "\n" in title else f"\n{title}", justify="right", no_wrap=True)
    for point in curve:
        due = "_intended" if point["load"]["mode"] == "rate" else ""
        failed = point["failed_share"]
        table.add_row(
            Text(plain(load_words(point["load"]))),
            *(short((point[name] or {}).get("value")) for name in ("requests_per_s", "input_tokens_per_s")),
            short((point["output_tokens_per_s"] or {}).get("value")),
            Text(half_width(point["output_tokens_per_s"]), style="dim"),
            short(point["tokens_per_s_per_user"]),
            *(
                short(((point[f"{name}_ms"] or {}).get(percentile) or {}).get("value"))
                for name, percentile in (
                    (f"ttft{due}", "p50"), (f"ttft{due}", "p99"), ("tpot", "p50"), (f"e2e{due}", "p50"), (f"e2e{due}", "p99")
                )
            ),
            Text(f"{failed:.1%}" if failed else "0", style="red" if failed else ""),
        )  # fmt: skip
    return table


def load_words(load: Facts) -> str:
    """A load in a few characters: 64, 12.5/s, or its profile."""
    if profile := load.get("profile"):
        return str(profile)
    value = f"{load.get('value', 0):g}"
    return f"{value}/s" if load["mode"] == "rate" else value


def half_width(one: Facts | None) -> str:
    """Half of a value's interval as a share of it; nothing where there is none."""
    if not one or not one["value"] or one["low"] is None:
        return ""
    return f"{(one['high'] - one['low']) / 2 / one['value']:.1%}"


def curve_notes(summary: Facts) -> list[Text]:
    """What the curve's numbers are, how the server counts a prompt, and which levels were left out."""
    curve = summary["curve"]
    repeats = max((len(point["stages"]) for point in curve), default=1)
    within = (
        f"of {repeats} repeats" if repeats > 1 else "within the run (block bootstrap); --repeat adds that between runs"
    )
    due = "; TTFT and E2E from the intended time" if any(point["load"]["mode"] == "rate" for point in curve) else ""
    notes = [Text(f"latencies in ms{due}; +-: half of the 95 % interval of out tok/s {within}", style="dim")]
    counted = (summary["warm_up"] or {}).get("prompt_tokens")
    if counted:
        words = f"the server counts {number(counted['mean'])} tokens a prompt"
        if counted["wanted"]:
            words += f" where {counted['wanted']:,} were asked for ({counted['off_share']:+.1%})"
        notes.append(Text(f"{words}, over {summary['warm_up']['requests']} requests before the first level"))
    notes += [Text(f"{plain(one['name'])}: {plain(one['words'])}") for one in summary["skipped"]]
    for stage in summary["stages"]:
        if (stage["outcome"] or {}).get("reason") == "cut":
            words = f"was cut after {stage['window_s']:.1f} s: {plain(stage['outcome']['words'])}"
            notes.append(Text(f"{plain(stage['name'])} {words}"))
    return notes


def points_table(told: Facts) -> Table:
    """A row a load that a search tried."""
    table = _table(14)
    for title in ("output\ntokens/s", "95 %\ninterval", "\nreq/s", "\nstages"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("\n", no_wrap=True)
    for point in told["points"]:
        tokens = point["output_tokens_per_s"]
        interval = "-" if tokens["high"] is None else f"{short(tokens['low'])} .. {short(tokens['high'])}"
        table.add_row(
            load_words(told["load"] | {"value": point["load"]}),
            short(tokens["value"]),
            interval,
            short(point["requests_per_s"]["value"]),
            f"{len(point['stages'])}",
            Text(_became(point, told["question"])),
        )
    return table


def _became(point: Facts, question: str) -> str:
    if point["client"]:
        return "the load generator's limit"
    if point["saturated"]:
        return "not kept up with"
    if question == "slo":
        return {True: "meets the objectives", False: "misses them", None: "open"}[point["meets"]]
    return ""


def answer_lines(told: Facts) -> list[Text]:
    """The answer of a search in two or three sentences."""
    load, tokens = told["load"], told["output_tokens_per_s"]
    unit = "requests a second" if load["mode"] == "rate" else "requests in flight"
    what = "the highest load within the objectives" if told["question"] == "slo" else "the knee"
    at = f"{number(load['value'])} {unit}"
    words = f"{what}: {at} ({_range(load)}), {number(tokens['value'])} output tokens/s ({_range(tokens)})"
    lines = [Text(words, style="bold")]
    if told["limited_by"] == "client":
        lines[0] = Text(f"limited by this load generator, not by the endpoint, at {at}", style="bold red")
        lines.append(Text(f"the endpoint gave {number(tokens['value'])} output tokens/s there, and may give more"))
    elif told["limited_by"] == "bounds":
        lines[0] = Text(f"limited by --most, not by the endpoint, at {at}", style="bold yellow")
        lines.append(Text(f"the endpoint gave {number(tokens['value'])} output tokens/s there, and may give more"))
    elif told["limited_by"] == "budget":
        lines[0] = Text("not decided. ", style="bold yellow") + Text(f"So far: {words}")
    lines += [Text(f"  {plain(reason)}") for reason in told["reasons"]]
    return lines


def _range(one: Facts) -> str:
    high = "?" if one["high"] is None else number(one["high"])
    return f"{number(one['low'])} .. {high}"


def is_open_loop(stage: Facts) -> bool:
    """Whether the stage had a schedule, and with it two of each latency."""
    return bool(stage["load"]["mode"] == "rate")


def turn_table(stages: Sequence[Facts]) -> Table | None:
    """TTFT by turn, a row each; None without sessions. Turns count from 0, as in the capture."""
    stages = [stage for stage in stages if stage["by_turn"]]
    if not stages:
        return None
    scheduled = any(is_open_loop(stage) for stage in stages)
    table = _table(16)
    titles = ["\nturn", "\nrequests", "prompt\ntokens", "TTFT\np50 ms", "TTFT\np99 ms"]
    for title in titles + (["from due\np50 ms", "from due\np99 ms"] if scheduled else []):
        table.add_column(title, justify="right", no_wrap=True)
    for stage in stages:
        turns = stage["by_turn"]
        for row, one in enumerate(turns[:MOST_TURNS]):
            metrics = ["ttft_ms"] + (["ttft_intended_ms"] if scheduled else [])
            table.add_row(
                Text(plain(stage["name"]) if row == 0 else ""),
                f"{one['turn']}",
                f"{one['count']:,}",
                number(one["prompt_tokens_mean"]),
                *(_percentile(one[metric], name) for metric in metrics for name in ("p50", "p99")),
            )
        if len(turns) > MOST_TURNS:
            table.add_row("", "...", f"{sum(one['count'] for one in turns[MOST_TURNS:]):,}")
    return table


def node_table(summary: Facts) -> Table | None:
    """The machines of a run, over all of its stages: counts add up, of the rest the worst; None where there was one."""
    if not summary.get("nodes"):
        return None
    table = plain_table()
    table.add_column("node")
    for heading in ("workers", "sent", "tokens", "CPU", "lag\np99 us", "late\np99 us", "clock\n+- us", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for node in summary["nodes"]:
        mine = [one for stage in summary["stages"] for one in stage["by_node"] if one["node"] == node["node"]]
        slow_ones = [one["node"] for stage in summary["stages"] for one, _ in slow(stage["by_node"])]

        def worst(name: str, mine: list[Facts] = mine) -> float | None:
            return max((one[name] for one in mine if one[name] is not None), default=None)

        word = "lost" if node["lost"] else "slow" if node["node"] in slow_ones else ""
        table.add_row(
            plain(f"{node['node']} {node['name'] or ''}"),
            f"{node['workers']}",
            f"{sum(one['sent'] for one in mine):,}",
            short(sum(one["output_tokens"] for one in mine)),
            _share(worst("cpu_share")),
            short(worst("lag_p99_us")),
            short(worst("lateness_p99_us")),
            short(worst("clock_uncertainty_us")),
            Text(word, style="yellow" if word else ""),
        )
    return table


def server_table(stages: Sequence[Facts]) -> Table | None:
    """What the server's own metrics said, a row a stage; None where nobody scraped."""
    told = [stage for stage in stages if stage.get("server")]
    if not told:
        return None
    table = _table(12, padding=0)
    for title in ("\nrunning", "\nwaiting", "KV\nmax", "prefix\nhits", "pre-\nempted", "GPU\nmean"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("TTFT\nmean", "client\n+", "E2E\nmean", "client\n+"):
        table.add_column(title, justify="right", no_wrap=True)
    for stage in told:
        server = stage["server"]
        running, waiting, kv, gpu = (
            server[name] or {} for name in ("running", "waiting", "kv_cache_share", "gpu_share")
        )
        table.add_row(
            Text(plain(load_words(stage["load"]))),
            short(running.get("mean")),
            short(waiting.get("mean")),
            _share(kv.get("max")),
            _share(server["prefix_hit_share"]),
            short(server["preemptions"]),
            _share(gpu.get("mean")),
            *(
                short((server[metric] or {}).get(name))
                for metric in ("ttft_ms", "e2e_ms")
                for name in ("mean", "client_minus_server")
            ),
        )
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def server_notes(summary: Facts) -> list[Text]:
    """Which pages of metrics could not be read, or only now and then; and restarts of the server."""
    notes = []
    for source in summary.get("server") or ():
        url, scrapes, failed = plain(source["url"]), source["scrapes"], source["failed"]
        if failed:
            words = "; ".join(f"{plain(words)} ({count})" for words, count in source["errors"].items())
            notes.append(Text(f"{url}: {failed} of {scrapes} scrapes failed: {words}"))
        if source["missed"]:
            notes.append(Text(f"{url}: {source['missed']} scrapes were left out, for it had not answered those before"))
        if source["bad_lines"] or source["left_out"]:
            words = f"{source['bad_lines']} lines are no samples, {source['left_out']} samples were too many"
            notes.append(Text(f"{url}: {words}"))
    notes += [
        Text(f"{plain(stage['name'])}: {plain(source['url'])} began to count anew: a restart?")
        for stage in summary["stages"]
        for source in (stage.get("server") or {}).get("sources", ())
        if source["restarts"]
    ]
    return notes


def _count(value: int) -> str:
    return short(value) if value >= 100_000 else f"{value:,}"


def _percentile(
    block: Facts | None, name: str, units_per_ms: int = 1, as_text: Callable[[float | None], str] = number
) -> Text:
    if block is None:
        return Text("-")
    words = as_text(block[name] / units_per_ms)
    return Text("~" + words, style="dim") if name in block["unreliable"] else Text(words)


def footnotes(stages: Sequence[Facts]) -> list[Text]:
    """What the table's marks mean, the classes of the errors, and the objectives, a line each."""
    notes = []
    shown = [(stage[metric], name) for stage in stages for _, metric, name in PERCENTILE_COLUMNS]
    shown += [(one["ttft_ms"], name) for stage in stages for one in stage["by_turn"] or () for name in ("p50", "p99")]
    doubted = {name for block, name in shown if block and name in block["unreliable"]}
    if doubted:
        wants = ", ".join(f"{name} wants {sample_floor(float(name[1:])):,}" for name in sorted(doubted))
        notes.append(Text(f"~ too few samples to rely on: {wants}", style="dim"))
    for stage in stages:
        requests = stage["requests"]
        if requests["failed"]:
            classes = ", ".join(f"{count:,} {plain(name)}" for name, count in requests["errors"].items())
            words = f"{plain(stage['name'])}: {requests['failed']:,} of {requests['sent']:,} requests failed: {classes}"
            notes.append(Text(words))
        for word, meaning in APART.items():
            if count := requests[word]:
                notes.append(Text(f"{plain(stage['name'])}: {count:,} request{'s' if count > 1 else ''} {meaning}"))
        if stage["slo"] is not None:
            notes.append(Text(f"{plain(stage['name'])}: {_objectives(stage)}"))
        notes += [Text(f"{plain(stage['name'])}: {words}") for words in _lengths(stage)]
    return notes


def floor_words(summary: Facts) -> str | None:
    """How well the machine of the run measured what is known; None where `loadgen doctor` never asked."""
    floor = summary.get("floor")
    if not floor or not floor.get("stamp_error_us"):
        return None
    error_us, late_us = floor["stamp_error_us"], floor.get("lateness_us") or {}
    words = (
        f"floor of this machine (loadgen doctor, {str(floor['at'])[:10]}): stamps {number(error_us['p50'])} us (p50), "
    )
    words += f"{number(error_us['p99'])} us (p99)"
    if late_us.get("p99") is not None:
        words += f"; sends {number(late_us['p99'])} us late (p99)"
    return plain(words)


def floor_line(summary: Facts) -> Text | None:
    """The same for the terminal."""
    words = floor_words(summary)
    return None if words is None else Text(words, style="dim")


def _lengths(stage: Facts) -> list[str]:
    """Where prompts or answers are not as long as they were wanted."""
    return [
        f"{side.replace('_', ' ')}: {told['wanted_mean']:,.1f} wanted on average, {told['server_mean']:,.1f} by the "
        f"server's count ({told['exact_share']:.0%} exact)"
        for side, told in (stage.get("lengths") or {}).items()
        if told["mean_difference"]
    ]


FROM_DUE: Final = ("ttft", "e2e")
"""Objectives that in open loop count from the intended time (slo.py)."""

APART: Final = {
    "cancelled": "cancelled by their users: no failure, and in no latency",
    "retried": "refused at first (429, 503) and tried again",
}


def _objectives(stage: Facts) -> str:
    """Goodput, and each limit with the share of requests that met it."""
    words = [f"goodput {number(stage['goodput_per_s'])} req/s"]
    if stage["fluidity"] is not None:
        words.append(f"fluidity {stage['fluidity']:.1%}")
    for name, limit in stage["slo"].items():
        since = " from due" if is_open_loop(stage) and name in FROM_DUE else ""
        which = since + ("" if limit["percentile"] is None else f" p{limit['percentile']:g}")
        met = "-" if limit["met_share"] is None else f"{limit['met_share']:.1%}"
        judged = "" if limit["met"] is None else ", met" if limit["met"] else ", missed"
        words.append(f"{name.upper()}{which} <= {limit['limit_ms']:g} ms by {met}{judged}")
    return "; ".join(words)


def verdict_lines(summary: Facts) -> list[Text]:
    """The verdict, and for each reason what to try."""
    if summary["verdict"]["ok"]:
        return [Text("valid", style="bold green")]
    reasons = summary["verdict"]["reasons"]
    lines = [
        Text("suspect", style="bold yellow")
        + Text(f": {len(reasons)} reason{'s' if len(reasons) > 1 else ''}", "default")
    ]
    for (stage, words, way), times in Counter((one["stage"], one["words"], one["try"]) for one in reasons).items():
        where = f"{plain(stage)}: " if stage is not None else ""
        lines.append(Text(f"  {where}{plain(words)}{f' ({times} times)' if times > 1 else ''}"))
        lines.append(Text(f"    try: {plain(way)}", style="dim"))
    return lines
