"""The result as tables for a terminal of 80 columns; makes rich objects, prints nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from analysis.columns import Columns
from analysis.confidence import too_few
from analysis.spelling import count, half_width, is_open_loop, load_words, number, plain, share, short
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

OPEN: Final = "open"
"""Of a load that neither meets nor misses the objectives as far as is known."""

CURVE_PERCENTILES: Final = (("ttft", "p50"), ("ttft", "p99"), ("tpot", "p50"), ("e2e", "p50"), ("e2e", "p99"))

FROM_DUE: Final = ("ttft", "e2e")
"""Latencies that in open loop count from the intended time (slo.py)."""

MOST_TURNS: Final = 12
"""Rows a stage in the table of turns; longer sessions are in summary.json."""


def _table(load_width: int, padding: int = 1, keys: int = 1) -> Columns:
    """With only its first column, the load."""
    table = Columns(padding, keys)
    table.add_column("\nload", overflow="fold", max_width=load_width)
    return table


def stage_table(stages: Sequence[Facts]) -> Columns:
    """A row a stage. A percentile without enough samples is dim and has a ~ before it."""
    table = _table(16)
    has_inputs = any(stage.get("inputs_per_s") is not None for stage in stages)
    # Embeddings have no tokens, and so no time between them.
    columns = [one for one in PERCENTILE_COLUMNS if not has_inputs or any(stage[one[1]] for stage in stages)]
    for title, *_ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("output\ntokens/s", justify="right", no_wrap=True)
    table.add_column("\nreq/s", justify="right", no_wrap=True)
    if has_inputs:
        table.add_column("inputs\n/s", justify="right", no_wrap=True)
    table.add_column("\nerrors", justify="right", no_wrap=True)
    for stage in stages:
        failed = stage["requests"]["failed"]
        table.add_row(
            Text(plain(stage["name"])),
            *(_percentile(stage[metric], name) for _, metric, name in columns),
            number(stage["output_tokens_per_s"]),
            number(stage["requests_per_s"]),
            *([number(stage["inputs_per_s"])] if has_inputs else []),
            Text(f"{failed:,}", style="red" if failed else ""),
        )
    return table


def target_table(stages: Sequence[Facts]) -> Columns | None:
    """A row a target, and one for each endpoint of a target that has several; None where there is one with one URL."""
    stages = [stage for stage in stages if stage.get("by_target")]
    if not stages:
        return None
    table = _table(12, padding=0, keys=2)
    table.add_column("\ntarget", overflow="fold", max_width=22)
    for title in ("\nsent", "TTFT\np50", "TTFT\np99", "TPOT\np50", "ITL\np99", "out\ntok/s", "\nreq/s", "\nerrors"):
        table.add_column(title, justify="right", no_wrap=True)
    for stage in stages:
        for row, (name, part, style) in enumerate(_parts(stage)):
            failed = part["requests"]["failed"]
            table.add_row(
                Text(plain(stage["name"]) if row == 0 else ""),
                Text(plain(name), style=style),
                count(part["requests"]["sent"]),
                *(
                    _percentile(part[f"{metric}_ms"], percentile, as_text=short)
                    for metric, percentile in (("ttft", "p50"), ("ttft", "p99"), ("tpot", "p50"), ("itl", "p99"))
                ),
                short(part["output_tokens_per_s"]),
                short(part["requests_per_s"]),
                Text(count(failed), style="red" if failed else ""),
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


def open_loop_table(stages: Sequence[Facts]) -> Columns | None:
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
            *(count(requests[name]) for name in ("offered", "sent", "late")),
            Text(count(dropped), style="red" if dropped else ""),
            *(
                _percentile((stage | stage["client"])[metric], name, 1_000 if metric.endswith("_us") else 1, short)
                for _, metric, name in FROM_DUE_COLUMNS
            ),
        )
    return table


def curve_table(summary: Facts) -> Columns:
    """A row a point of the curve; latencies in ms, in open loop from the intended time, with `~` as in `stage_table`."""
    table = _table(12, padding=0)
    titles = ("req/s", "in\ntok/s", "out\ntok/s", "+-", "tok/s\na user")
    latencies = [f"{metric.upper()}\n{percentile}" for metric, percentile in CURVE_PERCENTILES]
    for title in (*titles, *latencies, "failed"):
        table.add_column(title if "\n" in title else f"\n{title}", justify="right", no_wrap=True)
    for point in summary["curve"]:
        failed = point["failed_share"]
        table.add_row(
            Text(plain(load_words(point["load"]))),
            *(short((point[name] or {}).get("value")) for name in ("requests_per_s", "input_tokens_per_s")),
            short((point["output_tokens_per_s"] or {}).get("value")),
            Text(half_width(point["output_tokens_per_s"]), style="dim"),
            short(point["tokens_per_s_per_user"]),
            *(_of_point(summary, point, metric, percentile) for metric, percentile in CURVE_PERCENTILES),
            Text(f"{failed:.1%}" if failed else "0", style="red" if failed else ""),
        )
    return table


def _of_point(summary: Facts, point: Facts, metric: str, percentile: str) -> Text:
    block = point[_timed(point, metric)]
    if block is None:
        return Text("-")
    words = short((block[percentile] or {}).get("value"))
    return Text("~" + words, style="dim") if _is_doubted(summary, point, metric, percentile) else Text(words)


def _timed(point: Facts, metric: str) -> str:
    since = "_intended" if point["load"]["mode"] == "rate" and metric in FROM_DUE else ""
    return f"{metric}{since}_ms"


def _is_doubted(summary: Facts, point: Facts, metric: str, percentile: str) -> bool:
    """Whether all repeats of a point together have too few samples for a percentile."""
    blocks = (stage[_timed(point, metric)] for stage in summary["stages"] if stage["stage"] in point["stages"])
    return too_few(sum(block["count"] for block in blocks if block), percentile)


def doubted_of_curve(summary: Facts) -> set[str]:
    """The percentiles that have a `~` somewhere in `curve_table`."""
    return {
        percentile
        for point in summary["curve"]
        for metric, percentile in CURVE_PERCENTILES
        if point[_timed(point, metric)] and _is_doubted(summary, point, metric, percentile)
    }


def points_table(told: Facts) -> Columns:
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
            Text(became(point, told["question"])),
        )
    return table


def became(point: Facts, question: str) -> str:
    """What is known of a load that a search tried."""
    if point["client"]:
        return "the load generator's limit"
    if point["saturated"]:
        return "not kept up with"
    if question == "slo":
        return {True: "meets the objectives", False: "misses them", None: OPEN}[point["meets"]]
    return ""


def turn_table(stages: Sequence[Facts]) -> Columns | None:
    """TTFT by turn, a row each; None without sessions. Turns count from 0, as in the capture."""
    stages = [stage for stage in stages if stage["by_turn"]]
    if not stages:
        return None
    scheduled = any(is_open_loop(stage) for stage in stages)
    table = _table(16, keys=2)
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


def node_table(summary: Facts) -> Columns | None:
    """The machines of a run, over all of its stages: counts add up, of the rest the worst; None where there was one."""
    if not summary.get("nodes"):
        return None
    table = Columns()
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
            share(worst("cpu_share")),
            short(worst("lag_p99_us")),
            short(worst("lateness_p99_us")),
            short(worst("clock_uncertainty_us")),
            Text(word, style="yellow" if word else ""),
        )
    return table


def server_table(stages: Sequence[Facts]) -> Columns | None:
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
            share(kv.get("max")),
            share(server["prefix_hit_share"]),
            short(server["preemptions"]),
            share(gpu.get("mean")),
            *(
                short((server[metric] or {}).get(name))
                for metric in ("ttft_ms", "e2e_ms")
                for name in ("mean", "client_minus_server")
            ),
        )
    return table


def _percentile(
    block: Facts | None, name: str, units_per_ms: int = 1, as_text: Callable[[float | None], str] = number
) -> Text:
    if block is None:
        return Text("-")
    words = as_text(block[name] / units_per_ms)
    return Text("~" + words, style="dim") if name in block["unreliable"] else Text(words)
