"""What a reader must see first: can this be believed, how much does the endpoint take, how long do its users wait."""

from collections.abc import Mapping
from typing import Any

from analysis.figures.facts import is_open_loop, name_of
from analysis.tables import number, plain

Facts = Mapping[str, Any]


def headline(summary: Facts, saturation: Facts | None = None) -> dict[str, Any]:
    """{"sentence", "at", "tiles": [{"title", "value", "unit", "note"}]}; words are plain text."""
    stages = [stage for stage in summary["stages"] if stage["output_tokens_per_s"]]
    if not stages:
        return {"sentence": "Nothing was measured.", "tiles": []}
    best = best_stage(stages)
    return {"sentence": _sentence(stages, best, saturation), "tiles": _tiles(stages, best)}


def best_stage(stages: list[Facts]) -> Facts:
    """The stage of the most output tokens a second, among those that met every objective with a percentile if there are
    any.
    """
    met = [stage for stage in stages if _is_met(stage)]
    return max(met or stages, key=lambda stage: stage["output_tokens_per_s"])


def _is_met(stage: Facts) -> bool | None:
    """Whether the stage met its objectives; None where none has a percentile to be judged by."""
    judged = [limit["met"] for limit in (stage["slo"] or {}).values() if limit["met"] is not None]
    return all(judged) if judged else None


def _sentence(stages: list[Facts], best: Facts, saturation: Facts | None) -> str:
    rate = number(best["output_tokens_per_s"])
    words = []
    if saturation is not None:
        load, tokens = saturation["load"], saturation["output_tokens_per_s"]
        what = "keeps its objectives up to" if saturation["question"] == "slo" else "is saturated at"
        words.append(
            f"The endpoint {what} {load['mode']} {number(load['value'])}{_between(load)}: "
            f"{number(tokens['value'])} output tokens/s{_between(tokens)}."
        )
        if saturation.get("limited_by"):
            words.append(f"What limits it: {saturation['limited_by']}.")
    elif _is_met(best) is not None:
        if _is_met(best):
            words.append(f"Within its objectives the endpoint gave at most {rate} output tokens/s, at {best['name']}.")
        else:
            words.append(f"No load met the objectives; the endpoint gave at most {rate} output tokens/s.")
    elif len(stages) > 1:
        words.append(f"The endpoint gave at most {rate} output tokens/s, at {best['name']}.")
    else:
        words.append(f"At {best['name']} the endpoint gave {rate} output tokens/s.")
    first = best[f"{name_of('ttft', [best])}_ms"]
    if first:
        words.append(
            f"The first token then comes after {number(first['p50'])} ms in half of the requests"
            + ("" if "p99" in first["unreliable"] else f", and after at most {number(first['p99'])} ms in 99 % of them")
            + "."
        )
    return plain(" ".join(words))


def _between(block: Facts) -> str:
    low, high = block.get("low"), block.get("high")
    return "" if low is None or high is None or low == high else f" ({number(low)} to {number(high)})"


def _tiles(stages: list[Facts], best: Facts) -> list[dict[str, str]]:
    lightest = stages[0]
    sent = sum(stage["requests"]["sent"] for stage in stages)
    failed = sum(stage["requests"]["failed"] for stage in stages)
    tiles = [
        _tile("Output tokens/s", number(best["output_tokens_per_s"]), "", f"at {best['name']}"),
        *(
            _latency(title, best, lightest, name_of(metric, [best]), percentile)
            for title, metric, percentile in (
                ("First token (TTFT)", "ttft", "p50"),
                ("First token (TTFT)", "ttft", "p99"),
                ("A token (TPOT)", "tpot", "p50"),
                ("Whole answer (E2E)", "e2e", "p50"),
            )
        ),
        _tile(
            "Failed requests",
            f"{100 * failed / sent:.2g}" if failed else "0",
            "%",
            f"{failed:,} of {sent:,} at all loads",
        ),
    ]
    if best["goodput_per_s"] is not None:
        tiles.insert(
            1, _tile("Goodput", number(best["goodput_per_s"]), "req/s", f"of {number(best['requests_per_s'])} met the SLO")
        )
    return tiles


def _latency(title: str, best: Facts, lightest: Facts, name: str, percentile: str) -> dict[str, str]:
    block, light = best[f"{name}_ms"], lightest[f"{name}_ms"]
    note = ""
    if is_open_loop(best) and name.endswith("_intended"):
        note = "from when it was due"
    if lightest is not best and light:
        note = f"{number(light[percentile])} ms at {lightest['name']}"
    if not block:
        return _tile(f"{title} {percentile}", "-", "", "")
    doubted = "~" if percentile in block["unreliable"] else ""
    return _tile(f"{title} {percentile}", doubted + number(block[percentile]), "ms", note)


def _tile(title: str, value: str, unit: str, note: str) -> dict[str, str]:
    return {"title": title, "value": value, "unit": unit, "note": plain(note)}
