"""What a reader must see first: can this be believed, how much does the endpoint take, how long do its users wait."""

from collections.abc import Callable, Mapping
from typing import Any

from analysis.figures.facts import in_order_of_load, name_of
from analysis.tables import number, plain

Facts = Mapping[str, Any]


def headline(summary: Facts, saturation: Facts | None = None) -> dict[str, Any]:
    """{"sentence", "at", "tiles": [{"title", "value", "unit", "note"}]}; words are plain text."""
    stages = [stage for stage in summary["stages"] if stage["output_tokens_per_s"]]
    if not stages:
        return {"sentence": "Nothing was measured.", "tiles": []}
    best = best_stage(stages) if saturation is None else _nearest(stages, saturation)
    return {"sentence": _sentence(stages, best, saturation), "tiles": _tiles(stages, best)}


def best_stage(stages: list[Facts]) -> Facts:
    """The stage that the headline is about: of the most output tokens a second.

    With objectives that have a percentile, among the stages that met them all (if any did); with others, the stage of the
    most requests a second that met them.
    """
    met = [stage for stage in stages if _is_met(stage)]
    good = [stage for stage in stages if _is_met(stage) is None and stage["goodput_per_s"]]
    if good and not met:
        return max(good, key=lambda stage: (stage["goodput_per_s"], stage["output_tokens_per_s"]))
    return max(met or stages, key=lambda stage: stage["output_tokens_per_s"])


def _nearest(stages: list[Facts], saturation: Facts) -> Facts:
    """The stage whose load is nearest to the limit that was found; the headline's latencies are its."""
    load = saturation["load"]
    same = [stage for stage in stages if stage["load"]["mode"] == load["mode"] and stage["load"].get("value")]
    return min(same or [best_stage(stages)], key=lambda stage: abs((stage["load"].get("value") or 0) - load["value"]))


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
            f"The endpoint {what} {load['mode']} {load['value']:g}{_between(load)}: "
            f"{number(tokens['value'])} output tokens/s{_between(tokens, number)}."
        )
        if saturation.get("limited_by"):
            words.append(f"What limits it: {saturation['limited_by']}.")
    elif _is_met(best) is not None:
        if _is_met(best):
            words.append(f"Within its objectives the endpoint gave at most {rate} output tokens/s, at {best['name']}.")
        else:
            words.append(f"No load met the objectives; the endpoint gave at most {rate} output tokens/s.")
    elif best["goodput_per_s"]:
        words.append(
            f"{'At most ' if len(stages) > 1 else ''}{number(best['goodput_per_s'])} requests a second met all objectives, "
            f"at {best['name']}, with {rate} output tokens/s."
        )
    elif best["goodput_per_s"] is not None:
        words.append(f"No request met all objectives; the endpoint gave at most {rate} output tokens/s.")
    elif len(stages) > 1:
        words.append(f"The endpoint gave at most {rate} output tokens/s, at {best['name']}.")
    else:
        words.append(f"At {best['name']} the endpoint gave {rate} output tokens/s.")
    first = best[f"{name_of('ttft', [best])}_ms"]
    if first:
        words.append(
            f"{'The first token then' if saturation is None else 'At ' + best['name'] + ' the first token'} comes after "
            f"{number(first['p50'])} ms in half of the requests"
            + ("" if "p99" in first["unreliable"] else f", and after at most {number(first['p99'])} ms in 99 % of them")
            + "."
        )
    return plain(" ".join(words))


def _between(block: Facts, words: Callable[[float], str] = "{:g}".format) -> str:
    low, high = block.get("low"), block.get("high")
    return "" if low is None or high is None or low == high else f" ({words(low)} to {words(high)})"


def _tiles(stages: list[Facts], best: Facts) -> list[dict[str, str]]:
    lightest = in_order_of_load(stages)[0].stage
    sent = sum(stage["requests"]["sent"] for stage in stages)
    failed = sum(stage["requests"]["failed"] for stage in stages)
    tiles = [
        _tile("Output tokens/s", number(best["output_tokens_per_s"]), "", f"at {best['name']}"),
        *(
            _latency(title, best, lightest, name_of(metric, [best]))
            for title, metric in (
                ("First token (TTFT), p50", "ttft"),
                ("Each token (TPOT), p50", "tpot"),
                ("Whole answer (E2E), p50", "e2e"),
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
            1,
            _tile(
                "Goodput", number(best["goodput_per_s"]), "req/s", f"of {number(best['requests_per_s'])} met the SLO"
            ),
        )
    return tiles


def _latency(title: str, best: Facts, lightest: Facts, name: str) -> dict[str, str]:
    block, light = best[f"{name}_ms"], lightest[f"{name}_ms"]
    if not block:
        return _tile(title, "-", "", "")
    notes = [f"p99 {_marked(block, 'p99')} ms"]
    if name.endswith("_intended"):
        notes.append("from when it was due")
    if lightest is not best and light:
        notes.append(f"{_marked(light, 'p50')} ms at {lightest['name']}")
    return _tile(title, _marked(block, "p50"), "ms", "; ".join(notes))


def _marked(block: Facts, percentile: str) -> str:
    return ("~" if percentile in block["unreliable"] else "") + number(block[percentile])


def _tile(title: str, value: str, unit: str, note: str) -> dict[str, str]:
    return {"title": title, "value": value, "unit": unit, "note": plain(note)}
