"""The tables of the page: stages, slowest requests, errors, workers, what was asked for, where it ran. Plain values only."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from analysis.closeups import CloseUp
from analysis.figures.facts import is_open_loop, name_of
from analysis.notes import floor_words, server_notes
from analysis.spelling import number, plain
from analysis.stages import Details
from analysis.targets import targets_of, urls_of

Facts = Mapping[str, Any]
Cell = dict[str, Any]

NS_PER_MS: Final = 1e6
NS_PER_S: Final = 1e9

MOST_SLOWEST: Final = 300
FEWEST_SLOWEST: Final = 5
"""Rows of the tables of slow requests, over all stages, and of a stage."""

LATENCY_COLUMNS: Final = (
    ("ttft", "p50"),
    ("ttft", "p99"),
    ("tpot", "p50"),
    ("tpot", "p99"),
    ("itl", "p99"),
    ("e2e", "p50"),
)


def run_facts(summary: Facts, details: Mapping[int, Details], meanings: Mapping[str, str]) -> dict[str, Any]:
    """What the template shows of one run beside its headline and its charts."""
    stages = [
        stage | {"name": name} for stage, name in zip(summary["stages"], names_of(summary["stages"]), strict=True)
    ]
    ordered = [stages[place] for place in places_by_load(summary)]
    most_slowest = max(MOST_SLOWEST // max(len(stages), 1), FEWEST_SLOWEST)
    spec = summary["spec"] or {}
    return {
        "endpoint": _endpoint(spec),
        "started_at": plain(summary["started_at"] or "")[:19].replace("T", " "),
        "verdict": {
            "ok": summary["verdict"]["ok"],
            "reasons": [
                {key: plain(reason[key] or "") for key in ("stage", "words", "try")}
                for reason in summary["verdict"]["reasons"]
            ],
        },
        "stages": [{"place": place, "name": plain(stages[place]["name"])} for place in places_by_load(summary)],
        "points": sum(bool(stage["output_tokens_per_s"]) for stage in stages),
        "stage_table": stage_table(ordered),
        "target_table": target_table(ordered),
        "slowest": [
            {
                "place": place,
                "name": plain(stage["name"]),
                "ttft": _slowest(details[stage["stage"]].slowest_ttft[:most_slowest], stage),
                "e2e": _slowest(details[stage["stage"]].slowest_e2e[:most_slowest], stage),
            }
            for place, stage in enumerate(stages)
        ],
        "errors": errors(ordered, meanings),
        "objectives": _objectives(ordered),
        "client": _client(ordered),
        "nodes": _nodes(ordered),
        "floor": _floor(summary),
        "server": server_table(ordered),
        "server_notes": [note.plain for note in server_notes(summary)],
        "spec": _lines(spec),
        "host": _lines(summary["host"] or {})
        + _lines(
            {
                "loadgen": summary["loadgen"],
                "run": summary["run_id"],
                "workers": summary["capture"]["workers"],
                "stamps": " and ".join(summary["capture"]["stamp_source"]),
                "requests in the capture": f"{summary['capture']['requests']:,}",
            }
        ),
        "rules": sorted(
            {plain(stage["window"]["rule"]) for stage in stages} | {plain(s["token_rule"]) for s in stages}
        ),
    }


def _endpoint(spec: Facts) -> dict[str, str]:
    targets, urls = targets_of(spec), urls_of(spec)
    if not targets:
        return {"model": plain(spec.get("model") or "?"), "url": plain(spec.get("url") or "")}
    names = [target.name for target in targets]
    return {
        "model": plain(", ".join(names) if len(names) < 4 else f"{len(names)} targets"),
        "url": plain(", ".join(urls) if len(urls) < 4 else f"{len(urls)} URLs"),
    }


def places_by_load(summary: Facts) -> list[int]:
    """The places of the stages from the lightest load on, repeats of a load one after the other."""
    place_of = {stage["stage"]: place for place, stage in enumerate(summary["stages"])}
    return [place_of[number] for point in summary["curve"] for number in point["stages"]]


def names_of(stages: Sequence[Facts]) -> list[str]:
    """The names of stages; one that comes again has its number behind it."""
    times: Counter[str] = Counter()
    names = []
    for stage in stages:
        times[stage["name"]] += 1
        names.append(stage["name"] + (f" ({times[stage['name']]})" if times[stage["name"]] > 1 else ""))
    return names


def stage_table(stages: Sequence[Facts]) -> dict[str, Any]:
    """{"head": [...], "words": leading columns of words, "rows": [[{"text", "doubted", "bad"}]]}: a row a stage."""
    return _measured_table(stages, ["load"], [([plain(stage["name"])], stage) for stage in stages])


def target_table(stages: Sequence[Facts]) -> dict[str, Any] | None:
    """The same, a row a target of each stage, and a row each of its endpoints; None where there is one with one URL."""
    rows = []
    for stage in stages:
        for target in stage.get("by_target") or ():
            parts = [(target["name"], "" if target["by_endpoint"] else target["urls"][0], target)]
            parts += [(target["name"], one["url"], one) for one in target["by_endpoint"] or ()]
            rows += [([plain(stage["name"]), plain(name), plain(url)], part) for name, url, part in parts]
    return _measured_table(stages, ["load", "target", "endpoint"], rows) if rows else None


def _measured_table(
    stages: Sequence[Facts], of_what: list[str], parts: Sequence[tuple[list[str], Facts]]
) -> dict[str, Any]:
    names = [(name_of(metric, stages), percentile) for metric, percentile in LATENCY_COLUMNS]
    head = [*of_what, "requests"]
    head += [f"{_short(name)} {percentile}, ms" for name, percentile in names]
    head += ["output tokens/s", "req/s", "in flight", "failed"]
    rows = []
    for words, part in parts:
        requests, in_flight = part["requests"], part["concurrency"]
        cells = [*map(_cell, words), _cell(f"{requests['completed']:,}")]
        cells += [_percentile(part[f"{name}_ms"], percentile) for name, percentile in names]
        cells += [
            _cell(number(part["output_tokens_per_s"])),
            _cell(number(part["requests_per_s"])),
            _cell(number(in_flight and in_flight["mean"])),
            _cell(f"{requests['failed']:,}", bad=requests["failed"] > requests["errors"].get("unfinished", 0)),
        ]
        rows.append(cells)
    return {"head": head, "words": len(of_what), "rows": rows}


def errors(stages: Sequence[Facts], meanings: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row a class, the most frequent first: {"name", "meaning", "count", "share", "stages": [[load, count]]}."""
    sent = sum(stage["requests"]["sent"] for stage in stages)
    counted: dict[str, list[tuple[str, int]]] = {}
    for stage in stages:
        for name, count in stage["requests"]["errors"].items():
            counted.setdefault(name, []).append((plain(stage["name"]), count))
    rows = []
    for name, places in counted.items():
        total = sum(count for _, count in places)
        meaning = meanings.get(name) or (
            f"the server answered with status {name[5:]}" if name.startswith("http-") else ""
        )
        rows.append(
            {
                "name": plain(name),
                "meaning": plain(meaning),
                "count": total,
                "share": f"{total / max(sent, 1):.2%}",
                "stages": places,
            }
        )
    return sorted(rows, key=lambda row: (-row["count"], row["name"]))


def _slowest(requests: Sequence[CloseUp], stage: Facts) -> list[list[str]]:
    start_ns, waited = stage["window"]["start_ns"], is_open_loop(stage)
    rows = []
    for one in requests:
        assert one.first_ns is not None, "the slowest are of those that completed"
        assert one.last_ns is not None
        since_ns = one.due_ns if waited else one.sent_ns
        rows.append(
            [
                f"{one.request_id}",
                f"{(since_ns - start_ns) / NS_PER_S:,.2f}",
                number((one.first_ns - since_ns) / NS_PER_MS),
                number((one.last_ns - since_ns) / NS_PER_MS),
                number(one.pause_ns / NS_PER_MS),
                "-" if one.prompt_tokens is None else f"{one.prompt_tokens:,}",
                f"{one.output_tokens:,}",
                f"{one.worker}",
                plain(one.response_id or "-"),
            ]
        )
    return rows


def _objectives(stages: Sequence[Facts]) -> list[list[str]]:
    rows = []
    for stage in stages:
        for name, limit in (stage["slo"] or {}).items():
            which = "" if limit["percentile"] is None else f" p{limit['percentile']:g}"
            met = "-" if limit["met"] is None else "met" if limit["met"] else "missed"
            share = "-" if limit["met_share"] is None else f"{limit['met_share']:.1%}"
            limit_words = f"{name.upper()}{which} \N{LESS-THAN OR EQUAL TO} {limit['limit_ms']:g} ms"
            rows.append([plain(stage["name"]), limit_words, share, met])
    return rows


def _client(stages: Sequence[Facts]) -> list[list[str]]:
    """What the client says of itself, a row a worker and stage."""
    return [
        [
            plain(stage["name"]),
            f"{worker['worker']}",
            "-" if worker["core"] is None else f"{worker['core']}",
            f"{worker['sent']:,}",
            "-" if worker["cpu_share"] is None else f"{worker['cpu_share']:.0%}",
            number(worker["lag_p99_us"]),
            number(worker["lateness_p99_us"]),
        ]
        for stage in stages
        for worker in stage["by_worker"]
    ]


def _nodes(stages: Sequence[Facts]) -> list[list[str]]:
    """The machines of a run that was made on several, a row a machine and stage."""
    return [
        [
            plain(stage["name"]),
            plain(f"{node['node']} {node['name'] or ''}"),
            f"{node['workers']}",
            f"{node['sent']:,}",
            number(node["output_tokens"]),
            "-" if node["cpu_share"] is None else f"{node['cpu_share']:.0%}",
            number(node["lag_p99_us"]),
            number(node["lateness_p99_us"]),
            number(node["clock_uncertainty_us"]),
            "lost" if node.get("lost") else "",
        ]
        for stage in stages
        for node in stage.get("by_node") or ()
    ]


SERVER_COLUMNS: Final = (
    ("running, mean / most", "running", ("mean", "max"), ""),
    ("waiting, mean / most", "waiting", ("mean", "max"), ""),
    ("KV cache, mean / most", "kv_cache_share", ("mean", "max"), "%"),
    ("prefix hits", "prefix_hit_share", (), "%"),
    ("preempted", "preemptions", (), "n"),
    ("GPU, mean", "gpu_share", ("mean",), "%"),
    ("GPU memory, most", "gpu_memory_share", ("max",), "%"),
    ("J a token", "joules_a_token", (), ""),
    ("queue, mean ms", "queue_ms", ("mean",), ""),
    ("TTFT, mean ms", "ttft_ms", ("mean",), ""),
    ("client +", "ttft_ms", ("client_minus_server",), ""),
    ("E2E, mean ms", "e2e_ms", ("mean",), ""),
    ("client +", "e2e_ms", ("client_minus_server",), ""),
)
"""Title, key of a stage's `server`, the values within it shown (none: it is one), and their unit; `n` is a count."""


def server_table(stages: Sequence[Facts]) -> dict[str, Any] | None:
    """{"head": [...], "rows": [[text]]}: what the server's metrics said, a row a stage; without columns that nobody told."""
    told = [stage for stage in stages if stage.get("server")]
    if not told:
        return None
    columns = []
    for title, key, names, unit in SERVER_COLUMNS:
        blocks = [stage["server"].get(key) for stage in told]
        cells = [_server_cell(block, names, unit) for block in blocks]
        if any(cell != "-" for cell in cells):
            columns.append((title, cells))
    rows = [[plain(stage["name"]), *(cells[place] for _, cells in columns)] for place, stage in enumerate(told)]
    return {"head": ["load", *(title for title, _ in columns)], "rows": rows}


def _server_cell(block: Any, names: Sequence[str], unit: str) -> str:
    values = [] if block is None else [block.get(name) for name in names] if names else [block]
    if not values or None in values:
        return "-"
    as_text = {"%": "{:.1%}".format, "n": "{:,.0f}".format}.get(unit, number)
    return " / ".join(as_text(value) for value in values)


def _floor(summary: Facts) -> str:
    words = floor_words(summary)
    return "" if words is None else words[:1].upper() + words[1:] + "."


def _lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A mapping as lines; what was not given is left out."""
    return [
        (plain(key), plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
        for key, value in facts.items()
        if value is not None and value != [] and value != {}
    ]


def _short(name: str) -> str:
    metric, _, intended = name.partition("_")
    return metric.upper() + (" from due" if intended else "")


def _cell(text: str, *, doubted: bool = False, bad: bool = False) -> Cell:
    return {"text": text, "doubted": doubted, "bad": bad}


def _percentile(block: Facts | None, name: str) -> Cell:
    if block is None:
        return _cell("-")
    doubted = name in block["unreliable"]
    return _cell(("~" if doubted else "") + number(block[name]), doubted=doubted)
