"""The rows of the time line and their values: the load, the client itself, and what the server said of itself."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from analysis.figures.facts import Facts, Rows, is_open_loop, load_of

MOST_POINTS: Final = 2_000
"""In a panel of the server's, over all stages."""


class Panel(NamedTuple):
    """One row of the figure: a key of its values, its title, and how it is drawn.

    `bad` is for what should not be there; `sparse` for values that not every bin has.
    """

    key: str
    title: str
    bad: bool = False
    sparse: bool = False


PANELS: Final = (
    Panel("tokens_per_s", "Output tokens/s"),
    Panel("in_flight", "Requests in flight"),
    Panel("ttft_p50_ms", "TTFT p50, ms", sparse=True),
    Panel("failed_per_s", "Failed requests/s", bad=True),
    Panel("lag_ms", "Client: worst lag, ms", bad=True),
)

SERVER_PANELS: Final = (
    (Panel("running", "Server: requests running"), 1.0),
    (Panel("waiting", "Server: requests waiting"), 1.0),
    (Panel("kv_cache_share", "Server: KV cache in use, %"), 100.0),
    (Panel("preemptions_per_s", "Server: preemptions/s", bad=True), 1.0),
    (Panel("prompt_tokens_per_s", "Server: prompt tokens/s"), 1.0),
    (Panel("output_tokens_per_s", "Server: output tokens/s"), 1.0),
    (Panel("prefix_hit_share", "Server: prefix cache hits, %"), 100.0),
    (Panel("provisioned_requests", "Server: requests provisioned"), 1.0),
    (Panel("gpu_share", "GPU busy, %"), 100.0),
    (Panel("tensor_share", "GPU: tensor cores active, %"), 100.0),
    (Panel("dram_share", "GPU: memory bus active, %"), 100.0),
    (Panel("gpu_memory_share", "GPU memory in use, %"), 100.0),
    (Panel("gpu_memory_used_bytes", "GPU memory in use, GB"), 1e-9),
    (Panel("gpu_power_w", "GPU power, W"), 1.0),
    (Panel("gpu_temperature_c", "GPU temperature, \N{DEGREE SIGN}C"), 1.0),
    (Panel("sm_clock_mhz", "GPU clock, MHz"), 1.0),
    (Panel("cpu_share", "Server: CPU busy, %"), 100.0),
)
"""Signals of a stage's `server.timeline` in the order of the figure, and what their values are multiplied by."""


def timeline_rows(summary: Facts) -> Rows:
    """A row a bin of every stage, over seconds since the first stage began."""
    origin_s = _origin_s(summary)
    rows: Rows = []
    for place, stage in enumerate(summary["stages"]):
        line, first_s = stage["timeline"], _start_s(stage) - origin_s
        ttft_ms = line["ttft_intended_p50_ms"] if is_open_loop(stage) else line["ttft_p50_ms"]
        for index, tokens in enumerate(line["output_tokens"]):
            rows.append(
                {
                    "stage": place,
                    "name": stage["name"],
                    "t_s": round(first_s + index * line["bin_s"], 3),
                    "tokens_per_s": round(tokens / line["bin_s"], 3),
                    "in_flight": line["in_flight"][index],
                    "ttft_p50_ms": ttft_ms[index],
                    "failed_per_s": round(line["failed"][index] / line["bin_s"], 3),
                    "lag_ms": round(line["lag_max_us"][index] / 1000, 4),
                }
            )
    return rows


def windows(summary: Facts) -> Rows:
    """The measured windows, over the same seconds, with the load of each."""
    origin_s = _origin_s(summary)
    return [
        {
            "from_s": round(stage["window"]["start_ns"] / 1e9 - origin_s, 3),
            "to_s": round(stage["window"]["stop_ns"] / 1e9 - origin_s, 3),
            "load": load_of(stage),
        }
        for stage in summary["stages"]
        if stage["window_s"]
    ]


def server_panels(summary: Facts) -> list[tuple[Panel, Rows]]:
    """What --scrape found, over the same seconds: a panel for each signal that some page told, a row a scrape.

    Where several pages told a signal, `source` is the page's host and port, or its whole address if that is not enough.
    """
    found: dict[str, dict[str, Rows]] = {}
    origin_s = _origin_s(summary)
    stages = summary["stages"]
    told = [
        (place, line) for place, stage in enumerate(stages) for line in (stage.get("server") or {}).get("timeline", ())
    ]
    names = source_names(line["source"] for _, line in told)
    scale_of = {panel.key: scale for panel, scale in SERVER_PANELS}
    begins_s = sorted(_start_s(stage) - origin_s for stage in stages)
    for place, line in told:
        start_s = stages[place]["window"]["start_ns"] / 1e9 - origin_s
        # The scrape behind a stage may be the first of the next.
        begin_s = _start_s(stages[place]) - origin_s
        end_s = min((other_s for other_s in begins_s if other_s > begin_s), default=float("inf"))
        for key, scale in scale_of.items():
            if key not in line:
                continue
            rows = found.setdefault(key, {}).setdefault(names[line["source"]], [])
            rows += [
                {"stage": place, "t_s": round(start_s + t_s, 3), key: round(value * scale, 4)}
                for t_s, value in _from_then_on(**line[key])
                if start_s + t_s < end_s
            ]
    return [(panel, _of_pages(found[panel.key], panel.key)) for panel, _ in SERVER_PANELS if panel.key in found]


def _of_pages(pages: dict[str, Rows], key: str) -> Rows:
    most = max(MOST_POINTS // len(pages), 1)
    if len(pages) == 1:
        return _thinned(next(iter(pages.values())), key, most)
    return [row | {"source": source} for source, rows in pages.items() for row in _thinned(rows, key, most)]


def _from_then_on(t_s: Sequence[float], values: Sequence[float | None]) -> list[tuple[float, float]]:
    """(second, value from then on): a rate is of the time since the scrape before it, and the first has none."""
    if values[0] is None:
        values = [*values[1:], values[-1]]
    return [(at, value) for at, value in zip(t_s, values, strict=True) if value is not None]


def source_names(urls: Any) -> dict[str, str]:
    """Pages by host and port; by the whole URL where that is not enough to tell them apart."""
    urls = list(dict.fromkeys(urls))
    places = [urlsplit(url).netloc.rpartition("@")[2] for url in urls]
    return {url: place if places.count(place) == 1 and place else url for url, place in zip(urls, places, strict=True)}


def _thinned(rows: Rows, key: str, most: int) -> Rows:
    """Of more rows than `most` the largest of each few."""
    step = -(-len(rows) // most)
    if step < 2:
        return rows
    return [max(rows[first : first + step], key=lambda row: row[key]) for first in range(0, len(rows), step)]


def _start_s(stage: Facts) -> float:
    """When a stage's timeline begins, in seconds of the clock."""
    return float(stage["window"]["start_ns"] / 1e9 + stage["timeline"]["start_s"])


def _origin_s(summary: Facts) -> float:
    """When the first stage began, in seconds of the clock."""
    stages: Sequence[Facts] = summary["stages"]
    return min((_start_s(stage) for stage in stages), default=0.0)
