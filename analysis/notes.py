"""What stands above and below the tables: what their marks mean, the answer of a search, the verdict; a line or two each."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from analysis.confidence import sample_floor
from analysis.spelling import is_open_loop, number, plain
from analysis.tables import FROM_DUE, OPEN, PERCENTILE_COLUMNS, became

Facts = Mapping[str, Any]


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


def answer_lines(told: Facts) -> list[Text]:
    """The answer of a search in two or three sentences."""
    load, tokens = told["load"], told["output_tokens_per_s"]
    unit = "requests a second" if load["mode"] == "rate" else "requests in flight"
    what = "the highest load within the objectives" if told["question"] == "slo" else "the knee"
    at = f"{_amount(load['value'])} {unit}"
    range_of_load = _range(load, _amount)
    words = f"{what}: {at} ({range_of_load}), {number(tokens['value'])} output tokens/s ({_range(tokens)})"
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
    if any(became(point, told["question"]) == OPEN for point in told["points"]):
        lines.append(Text(f"{OPEN}: too few requests to be sure whether it meets the objectives", style="dim"))
    return lines


def _amount(value: float | None) -> str:
    """A load: requests in flight are whole ones, unless a fit made them."""
    return f"{value:,.0f}" if value is not None and value == int(value) else number(value)


def _range(one: Facts, as_text: Callable[[float | None], str] = number) -> str:
    high = "?" if one["high"] is None else as_text(one["high"])
    return f"{as_text(one['low'])} .. {high}"


FEWEST_SCRAPES: Final = 5
"""Of a page within a window: of fewer the mean is that of a few moments."""


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
    for stage in summary["stages"]:
        for source in (stage.get("server") or {}).get("sources", ()):
            if source["scrapes"] < FEWEST_SCRAPES:
                times = f"{source['scrapes']} time{'s' if source['scrapes'] != 1 else ''}"
                words = (
                    f"{plain(source['url'])} was read {times} in its window, and what it says of a moment (running, "
                )
                words += "waiting, KV cache) is of no more; a longer --duration, or a shorter --scrape-every"
                notes.append(Text(f"{plain(stage['name'])}: {words}"))
    notes += [
        Text(f"{plain(stage['name'])}: {plain(source['url'])} began to count anew: a restart?")
        for stage in summary["stages"]
        for source in (stage.get("server") or {}).get("sources", ())
        if source["restarts"]
    ]
    return notes


def footnotes(stages: Sequence[Facts], doubted: set[str] | None = None) -> list[Text]:
    """What the table's marks mean, the classes of the errors, and the objectives, a line each.

    `doubted` are the percentiles that have a mark; None: those of the tables of stages and turns.
    """
    notes = []
    if doubted is None:
        shown = [(stage[metric], name) for stage in stages for _, metric, name in PERCENTILE_COLUMNS]
        shown += [
            (one["ttft_ms"], name) for stage in stages for one in stage["by_turn"] or () for name in ("p50", "p99")
        ]
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
    told = Counter((one["stage"], one["words"], one["try"]) for one in summary["verdict"]["reasons"])
    lines = [
        Text("suspect", style="bold yellow") + Text(f": {len(told)} reason{'s' if len(told) > 1 else ''}", "default")
    ]
    for (stage, words, way), times in told.items():
        where = f"{plain(stage)}: " if stage is not None else ""
        lines.append(Text(f"  {where}{plain(words)}{f' ({times} times)' if times > 1 else ''}"))
        lines.append(Text(f"    try: {plain(way)}", style="dim"))
    return lines
