"""A stage's tally -> its entry in summary.json, and what else is kept of it."""

from typing import Any, Final, NamedTuple

from analysis import rates
from analysis.captures import Run
from analysis.client import by_node, by_worker, client, lateness, worst_lag
from analysis.closeups import CloseUp
from analysis.course import Flow, backlog, flow_of, steadiness, timeline
from analysis.histogram import Histogram, LogLine
from analysis.latencies import block, by_turn, intervals, stage_histograms
from analysis.objectives import fluidity, objectives
from analysis.tally import StageTally, stage_tally
from analysis.targets import ALL, Key, targets_of, urls_of
from analysis.window import is_open_loop

NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000

TOKEN_RULE: Final = (
    "a token counts at the stamp of its event: event tokens where told, else the request's usage spread evenly over its "
    "events, else one an event"
)


class Details(NamedTuple):
    """What pictures of a stage are drawn from beside its summary: histograms by name (ttft, itl, ...), and requests."""

    histograms: dict[str, Histogram]
    sample: list[CloseUp]
    slowest_ttft: list[CloseUp]
    slowest_e2e: list[CloseUp]


def stage_entry(plan: dict[str, Any], tally: StageTally, run: Run) -> dict[str, Any]:
    """A stage as summary.json has it; `plan` is its entry in run.json."""
    window, open_loop, captures = tally.window, is_open_loop(plan), run.of_stage(plan)
    flow = flow_of(tally)
    return {
        "name": plan["name"],
        "stage": plan["stage"],
        "outcome": plan.get("outcome"),
        "load": plan["load"],
        "duration_s": plan.get("duration_s"),
        "arrivals_planned": plan.get("arrivals_planned"),
        "window_s": window.length_ns / NS_PER_S,
        "window": {
            "start_ns": window.start_ns,
            "stop_ns": window.stop_ns,
            "start_s": (window.start_ns - window.begin_ns) / NS_PER_S,
            "rule": window.rule,
        },
        **_measured(plan, tally, flow),
        "token_rule": TOKEN_RULE,
        "intervals": intervals(tally),
        "backlog": backlog(plan, tally, flow) if open_loop else None,
        "halves": steadiness(tally, flow, open_loop),
        "by_target": _by_target(plan, tally, run.facts["spec"]),
        "client": client(tally, captures) | {"spin": bool((run.facts["spec"] or {}).get("spin"))},
        "by_worker": by_worker(tally, captures),
        **({"by_node": by_node(tally, captures, run.nodes_of(plan))} if run.facts.get("nodes") else {}),
        "timeline": timeline(tally, flow, open_loop),
    }


def _measured(plan: dict[str, Any], tally: StageTally, flow: Flow) -> dict[str, Any]:
    """What is told of all requests of a stage, and of those to each target."""
    window, open_loop = tally.window, is_open_loop(plan)
    length_s = window.length_ns / NS_PER_S
    in_flight = rates.concurrency(flow.sent_ns, flow.ended_ns, window.start_ns, window.stop_ns)
    latencies = {f"{name}_ms": block(histogram, NS_PER_MS, 6) for name, histogram in stage_histograms(tally).items()}

    def per_s(amount: float) -> float | None:
        return round(amount / length_s, 6) if length_s else None

    return {
        "requests": {
            "offered": tally.sent + tally.dropped if open_loop else None,
            "sent": tally.sent,
            "completed": tally.completed,
            "failed": tally.sent - tally.completed - tally.cancelled,
            "cancelled": tally.cancelled,
            "late": tally.late if open_loop else None,
            "dropped": tally.dropped if open_loop else None,
            "retried": tally.retried,
            "errors": dict(sorted(tally.errors.items(), key=lambda item: (-item[1], item[0]))),
        },
        "warmup_requests": tally.warmup,
        "after_window_requests": tally.after_window,
        **latencies,
        "by_turn": by_turn(tally),
        "output_tokens_per_s": per_s(tally.output_tokens),
        "input_tokens_per_s": per_s(tally.input_tokens) if tally.prompts_told else None,
        "requests_per_s": per_s(tally.finished),
        "inputs_per_s": per_s(tally.finished * plan["inputs_per_request"]) if "inputs_per_request" in plan else None,
        "output_tokens_a_request": round(tally.completed_tokens / tally.completed, 6) if tally.completed else None,
        "goodput_per_s": per_s(tally.good) if tally.limits else None,
        "slo": objectives(tally) if tally.limits else None,
        "fluidity": fluidity(tally),
        "token_source": _token_source(tally),
        "lengths": _lengths(tally, has_output="inputs_per_request" not in plan),
        "concurrency": None if in_flight is None else {"mean": round(in_flight[0], 6), "peak": in_flight[1]},
    }


def _by_target(plan: dict[str, Any], tally: StageTally, spec: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    """The requests to each target, and to each endpoint of one that has several; None where there is one with one URL."""
    targets, urls = targets_of(spec), urls_of(spec)

    def told(key: Key) -> dict[str, Any]:
        part = tally.parts.get(key) or stage_tally(tally.window, tally.limits)
        return _measured(plan, part, flow_of(part))

    def of_target(number: int) -> dict[str, Any]:
        return told((number, ALL)) if len(targets) > 1 else _measured(plan, tally, flow_of(tally))

    return [
        {
            "target": number,
            "name": target.name,
            "weight": target.weight,
            "model": target.model,
            "api": target.api,
            "urls": [urls[endpoint] for endpoint in target.endpoints],
            **of_target(number),
            "by_endpoint": [
                {"endpoint": endpoint, "url": urls[endpoint], **told((number, endpoint))}
                for endpoint in target.endpoints
            ]
            if len(target.endpoints) > 1
            else None,
        }
        for number, target in enumerate(targets)
    ] or None


def _token_source(tally: StageTally) -> str | None:
    by = {
        "usage": tally.usage_told,
        "tokenizer": tally.locally_counted,
        "events": tally.usage_untold - tally.locally_counted,
    }
    sources = [name for name, requests in by.items() if requests]
    return "mixed" if len(sources) > 1 else sources[0] if sources else None


def _lengths(tally: StageTally, *, has_output: bool = True) -> dict[str, Any] | None:
    """What was asked for beside what the server counted; None where nobody knows. Embeddings have no output."""
    return {
        side: {
            "requests": told.requests,
            "wanted_mean": round(told.wanted / told.requests, 3),
            "server_mean": round(told.counted / told.requests, 3),
            "mean_difference": round(told.off / told.requests, 3),
            "exact_share": round(told.exact / told.requests, 6),
        }
        for side, told in tally.lengths.items()
        if told.requests and (has_output or side != "output_tokens")
    } or None


def log_lines(stage: int, tally: StageTally, first_ns: int) -> list[LogLine]:
    """A stage's lines of histograms.hlog, which begins at `first_ns`."""
    start_s = (tally.window.start_ns - first_ns) / NS_PER_S
    length_s = tally.window.length_ns / NS_PER_S
    named = stage_histograms(tally) | {"lag": worst_lag(tally), "lateness": lateness(tally)}
    for turn, told in sorted(tally.turns.items()):
        named |= {f"ttft_turn_{turn}": told.ttft, f"ttft_intended_turn_{turn}": told.ttft_intended}
    return [LogLine(f"{stage}.{name}", start_s, length_s, one) for name, one in named.items() if one.total]


def details(tally: StageTally) -> Details:
    """What summary.json has no place for."""
    kept = tally.kept
    return Details(stage_histograms(tally), kept.sample.best(), kept.slowest_ttft.best(), kept.slowest_e2e.best())
