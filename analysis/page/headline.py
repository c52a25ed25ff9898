"""What a reader must see first: can this be believed, how much does the endpoint take, how long do its users wait."""

from collections.abc import Callable, Mapping
from typing import Any

from analysis.confidence import too_few
from analysis.figures.facts import Point, has_limit, name_of, points_of
from analysis.spelling import number, plain

Facts = Mapping[str, Any]


def headline(summary: Facts, saturation: Facts | None = None) -> dict[str, Any]:
    """{"sentence", "tiles": [{"title", "value", "unit", "note"}]} of a run, as plain text."""
    points = [point for point in points_of(summary) if _rate(point, "output_tokens_per_s")]
    if not points:
        return {"sentence": "Nothing was measured.", "tiles": []}
    found = saturation if saturation is not None and has_limit(saturation) else None
    best = best_point(points) if found is None else _nearest(points, found)
    return {"sentence": _sentence(points, best, found), "tiles": _tiles(points, best, found)}


def best_point(points: list[Point]) -> Point:
    """The level of load that the headline is about: of the most output tokens a second.

    With objectives that have a percentile, among the levels that met them all (if any did); with others, the level of the
    most requests a second that met them.
    """
    met = [point for point in points if _is_met(point)]
    good = [point for point in points if _is_met(point) is None and _rate(point, "goodput_per_s")]
    if good and not met:
        return max(good, key=lambda point: (_rate(point, "goodput_per_s"), _rate(point, "output_tokens_per_s")))
    return max(met or points, key=lambda point: _rate(point, "output_tokens_per_s") or 0.0)


def _nearest(points: list[Point], saturation: Facts) -> Point:
    """The level of load nearest to the limit that was found; the headline's latencies are its."""
    load = saturation["load"]
    same = [point for point in points if point.told["load"]["mode"] == load["mode"] and point.told["load"].get("value")]
    return min(same or [best_point(points)], key=lambda one: abs((one.told["load"].get("value") or 0) - load["value"]))


def _rate(point: Point, name: str) -> float | None:
    return (point.told[name] or {}).get("value")


def _is_met(point: Point) -> bool | None:
    """Whether every repeat met its objectives; None where none has a percentile to be judged by."""
    judged = [limit["met"] for stage in point.stages for limit in (stage["slo"] or {}).values()]
    known = [one for one in judged if one is not None]
    return all(known) if known else None


def _sentence(points: list[Point], best: Point, found: Facts | None) -> str:
    rate, goodput = number(_rate(best, "output_tokens_per_s")), _rate(best, "goodput_per_s")
    at = best.stages[0]["name"]
    words = []
    if found is not None:
        words.append(_answer(found))
    elif (met := _is_met(best)) is not None:
        if met:
            words.append(f"Within its objectives the endpoint gave at most {rate} output tokens/s, at {at}.")
        else:
            words.append(f"No load met the objectives; the endpoint gave at most {rate} output tokens/s.")
    elif goodput:
        words.append(
            f"{'At most ' if len(points) > 1 else ''}{number(goodput)} requests a second met all objectives, "
            f"at {at}, with {rate} output tokens/s."
        )
    elif goodput is not None:
        words.append(f"No request met all objectives; the endpoint gave at most {rate} output tokens/s.")
    elif len(points) > 1:
        words.append(f"The endpoint gave at most {rate} output tokens/s, at {at}.")
    else:
        words.append(f"At {at} the endpoint gave {rate} output tokens/s.")
    first = best.told[f"{name_of('ttft', best.stages)}_ms"]
    if first:
        who = "The first token then" if found is None else f"At {at} the first token"
        p99 = (
            ""
            if _is_doubted(best, "ttft", "p99")
            else f", and after at most {number(first['p99']['value'])} ms in 99 %"
        )
        words.append(f"{who} comes after {number(first['p50']['value'])} ms in half of the requests{p99}.")
    return plain(" ".join(words))


def _answer(found: Facts) -> str:
    """What a search came to (saturation.py), in a sentence."""
    load, tokens = found["load"], found["output_tokens_per_s"]
    at = f"{load['mode']} {load['value']:.4g}"
    others = {"client": "The load generator was the limit", "bounds": "--most was the limit"}
    if limit := others.get(found.get("limited_by") or ""):
        return (
            f"{limit}, not the endpoint: at {at} it gave {number(tokens['value'])} output tokens/s, and may give more."
        )
    so_far = "The search was not decided in its time. So far: the" if found.get("limited_by") == "budget" else "The"
    what = "keeps its objectives up to" if found["question"] == "slo" else "has its knee at"
    return (
        f"{so_far} endpoint {what} {at}{_between(load)}: "
        f"{number(tokens['value'])} output tokens/s{_between(tokens, number)}."
    )


def _between(block: Facts, words: Callable[[float], str] = "{:.4g}".format) -> str:
    low, high = block.get("low"), block.get("high")
    if low is None or low == high:
        return ""
    return f" (at least {words(low)})" if high is None else f" ({words(low)} to {words(high)})"


def _tiles(points: list[Point], best: Point, found: Facts | None) -> list[dict[str, str]]:
    stages = [stage for point in points for stage in point.stages]
    sent = sum(stage["requests"]["sent"] for stage in stages)
    # What was given up at a stage's end is no failure of the endpoint; a search does so on purpose.
    unfinished = sum(stage["requests"]["errors"].get("unfinished", 0) for stage in stages)
    failed = sum(stage["requests"]["failed"] for stage in stages) - unfinished
    tokens = best.told["output_tokens_per_s"]
    notes = [f"at {best.stages[0]['name']}"]
    # One figure has one interval: that of the answer is in the sentence, and is not the one between a point's repeats.
    if tokens["low"] is not None and found is None:
        notes.append(f"95 %: {number(tokens['low'])} to {number(tokens['high'])}")
    tiles = [
        _tile("Output tokens/s", number(tokens["value"]), "", "; ".join(notes)),
        *(
            _latency(title, best, points[0], metric)
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
            f"{failed:,} of {sent:,} at all loads" + (f"; {unfinished:,} given up at the end" if unfinished else ""),
        ),
    ]
    goodput = _rate(best, "goodput_per_s")
    if goodput is not None:
        note = f"of {number(_rate(best, 'requests_per_s'))} met the SLO"
        tiles.insert(1, _tile("Goodput", number(goodput), "req/s", note))
    return tiles


def _latency(title: str, best: Point, lightest: Point, metric: str) -> dict[str, str]:
    name = name_of(metric, best.stages)
    block, light = best.told[f"{name}_ms"], lightest.told[f"{name}_ms"]
    if not block:
        return _tile(title, "-", "", "")
    notes = [f"p99 {_marked(best, metric, 'p99')} ms"]
    if name.endswith("_intended"):
        notes.append("from when it was due")
    if lightest is not best and light:
        notes.append(f"{_marked(lightest, metric, 'p50')} ms at {lightest.stages[0]['name']}")
    return _tile(title, _marked(best, metric, "p50"), "ms", "; ".join(notes))


def _marked(point: Point, metric: str, percentile: str) -> str:
    block = point.told[f"{name_of(metric, point.stages)}_ms"]
    return ("~" if _is_doubted(point, metric, percentile) else "") + number(block[percentile]["value"])


def _is_doubted(point: Point, metric: str, percentile: str) -> bool:
    """Whether all repeats together have too few samples for a percentile."""
    blocks = (stage[f"{name_of(metric, point.stages)}_ms"] for stage in point.stages)
    return too_few(sum(block["count"] for block in blocks if block), percentile)


def _tile(title: str, value: str, unit: str, note: str) -> dict[str, str]:
    return {"title": title, "value": value, "unit": unit, "note": plain(note)}
