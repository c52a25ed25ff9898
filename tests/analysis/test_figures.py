import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from strategies import latencies_ns, often
from sweep_run import LOADS, hostile, scraped_sweep, sweep
from synthetic import frozen_server, mark, open_plan, write_run

from analysis import figures
from analysis.figures.distributions import edges_ms, shares, spectrum
from analysis.figures.panels import Panel, server_panels, source_names, timeline_rows
from analysis.figures.requests import SHOWN, waterfall_rows
from analysis.histogram import Histogram, filled
from analysis.summary import analyse

SATURATION = {
    "schema": 1,
    "question": "slo",
    "load": {"mode": "concurrency", "value": 4, "low": 3, "high": 6},
    "output_tokens_per_s": {"value": 500.0, "low": 450.0, "high": 550.0},
}


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    return analyse(sweep(tmp_path_factory.mktemp("figures") / "run"))


def all_charts(analysis):
    summary = analysis.summary
    charts = [figures.throughput_latency(summary, metric, limits={"": SATURATION}) for metric in figures.LATENCIES]
    charts += [
        figures.throughput_latency_grid({"a": summary, "b": summary}, "p99"),
        figures.throughput_by_load(summary),
    ]
    charts += [figures.percentile_spectrum(analysis, metric) for metric in figures.LATENCIES]
    charts += [figures.latency_histogram(analysis, metric) for metric in figures.LATENCIES]
    charts += [figures.timeline(summary)]
    charts += [figures.waterfall(analysis, stage) for stage in range(len(summary["stages"]))]
    return charts


def test_every_figure_is_a_valid_description_and_drawn_without_a_browser(analysis):
    for chart in all_charts(analysis):
        chart.to_dict()  # against Vega-Lite's schema
        assert figures.svg(chart).startswith("<svg")
    assert figures.png(chart, figures.DARK).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "rows", [[], frozen_server(seconds=6.0, freeze_at_s=2.0, freeze_s=0.5)], ids=["empty", "open loop"]
)
def test_figures_of_a_stage_without_requests_and_of_an_open_loop_can_be_drawn(tmp_path, rows):
    found = analyse(write_run(tmp_path, rows, [open_plan(seconds=6.0)], [mark(seconds=6)]))
    for chart in all_charts(found):
        assert figures.svg(chart).startswith("<svg")


def test_figures_of_a_run_without_a_stage_can_be_drawn(tmp_path):
    found = analyse(write_run(tmp_path, [], marks=[]))
    for chart in all_charts(found):
        assert figures.svg(chart).startswith("<svg")


def test_words_from_outside_are_data_and_never_part_of_an_expression(tmp_path):
    for chart in all_charts(analyse(hostile(tmp_path))):
        described = chart.to_dict()
        described.pop("datasets")
        assert _only_in_domains(described)


def _only_in_domains(part) -> bool:
    """The domain of a scale is a list of data too."""
    if isinstance(part, dict):
        return all(key == "domain" or _only_in_domains(value) for key, value in part.items())
    if isinstance(part, list):
        return all(map(_only_in_domains, part))
    return "hacked" not in str(part)


def test_the_curve_has_the_numbers_of_the_summary(analysis):
    described = figures.throughput_latency(analysis.summary, "e2e", "p90").to_dict()
    (points,) = [rows for rows in described["datasets"].values() if "words_p50" in rows[0]]
    for point, stage in zip(points, analysis.summary["stages"], strict=True):
        assert point["tokens_per_s"] == stage["output_tokens_per_s"]
        assert point["p90"] == stage["e2e_ms"]["p90"]
        assert point["tokens_low"] < point["tokens_per_s"] < point["tokens_high"]
    assert [point["load"] for point in points] == [str(load) for load in LOADS]
    (switch,) = [one for one in described["params"] if one["name"] == "percentile"]
    assert switch["value"] == "p90"


def test_objectives_and_the_limit_stand_in_the_curve(analysis):
    def words(chart):
        return [row["words"] for rows in chart.to_dict()["datasets"].values() for row in rows if "words" in row]

    told = words(figures.throughput_latency(analysis.summary, "ttft", limits={"": SATURATION}))
    assert told == ["SLO p99 ≤ 60 ms", "most within SLO: concurrency 4"]
    assert words(figures.throughput_latency(analysis.summary, "itl")) == []
    knee = SATURATION | {"question": "knee", "output_tokens_per_s": {"value": 500.0, "low": None, "high": None}}
    assert words(figures.throughput_latency(analysis.summary, "itl", limits={"": knee})) == ["knee: concurrency 4"]


def test_an_objective_far_above_all_values_does_not_press_them_flat(analysis):
    summary = json.loads(json.dumps(analysis.summary))
    for limit_ms, words, is_on_scale in (
        (60.0, "SLO p99 ≤ 60 ms", True),
        (6_000.0, "SLO p99 ≤ 6000 ms, far above", False),
    ):
        for stage in summary["stages"]:
            stage["slo"]["ttft"]["limit_ms"] = limit_ms
        for chart in (
            figures.throughput_latency(summary, "ttft"),
            figures.percentile_spectrum(replace(analysis, summary=summary), "ttft"),
        ):
            rows = [
                row for rows in chart.to_dict()["datasets"].values() for row in rows if "SLO" in row.get("words", "")
            ]
            assert [row["words"] for row in rows] == [words]
            assert ("limit_ms" in rows[0]) == is_on_scale


def test_points_that_stand_on_each_other_share_their_words(tmp_path):
    found = analyse(sweep(tmp_path, seconds=2.0, loads=(1, 16, 17)))
    described = figures.throughput_latency(found.summary).to_dict()
    (points,) = [rows for rows in described["datasets"].values() if "words_p50" in rows[0]]
    assert [point["words_p50"] for point in points] == ["1", "", "16, 17"]


def test_words_are_left_out_where_they_would_stand_on_other_words_or_below_another_point(tmp_path):
    summary = analyse(sweep(tmp_path, seconds=0.5, loads=(1, 45, 49, 54, 64))).summary
    places = ((90.0, 40.0), (2_800.0, 50.0), (2_930.0, 480.0), (2_920.0, 508.0), (2_870.0, 52.0))
    for point, (tokens_per_s, ttft_ms) in zip(summary["curve"], places, strict=True):
        point["output_tokens_per_s"] = {"value": tokens_per_s, "low": None, "high": None}
        for name in ("p50", "p90", "p99"):
            point["ttft_ms"][name] = {"value": ttft_ms, "low": None, "high": None}
    for stage in summary["stages"]:
        stage["slo"] = None

    def words():
        datasets = figures.throughput_latency(summary).to_dict()["datasets"].values()
        (points,) = [rows for rows in datasets if "words_p50" in rows[0]]
        return [point["words_p50"] for point in points]

    assert words() == ["1", "", "", "54", "45, 64"], "45 is told beside the heaviest, and 54 stands on the words of 49"
    summary["stages"][0]["slo"] = {"ttft": {"percentile": None, "limit_ms": 1_500.0, "met_share": 1.0, "met": None}}
    assert words() == ["1", "", "49", "", "45, 64"], "a limit above takes two thirds of the height"


def test_loads_of_several_runs_rise_from_left_to_right_whichever_run_has_them(tmp_path):
    few = analyse(sweep(tmp_path / "few", seconds=0.5, loads=(1, 16))).summary
    many = analyse(sweep(tmp_path / "many", seconds=0.5, loads=(2, 8, 16, 32))).summary
    drawn = ElementTree.fromstring(figures.svg(figures.throughput_by_load({"few": few, "many": many})))
    loads = [(x, words) for words, x, _ in places_of(drawn) if words in ("1", "2", "8", "16", "32")]
    assert [words for _, words in sorted(loads)] == ["1", "2", "8", "16", "32"]


def test_two_runs_that_lie_upon_each_other_share_their_words(tmp_path):
    summary = analyse(sweep(tmp_path, seconds=0.5, loads=(1, 16))).summary
    datasets = figures.throughput_latency({"a": summary, "b": summary}).to_dict()["datasets"].values()
    (points,) = [rows for rows in datasets if "words_p50" in rows[0]]
    assert [point["words_p50"] for point in points] == ["1", "16", "", ""]


def places_of(part, dx=0.0, dy=0.0):
    """(text, x, y) of each text of an SVG."""
    if moved := re.match(r"translate\(([-\d.]+),([-\d.]+)\)", part.get("transform", "")):
        dx, dy = dx + float(moved[1]), dy + float(moved[2])
    if part.text and part.text.strip():
        yield part.text, dx, dy
    for child in part:
        yield from places_of(child, dx, dy)


@pytest.mark.parametrize("limits", [None, {"": SATURATION}, {"a": SATURATION, "b": SATURATION}])
def test_the_titles_of_the_grid_are_in_line_whatever_stands_out_of_the_plots(analysis, limits):
    summary = json.loads(json.dumps(analysis.summary))
    for point in summary["curve"]:  # one point is far above the others in one of the plots alone
        point["itl_ms"]["p50"]["value"] *= 1 + 40 * (point is summary["curve"][-1])
    drawn = ElementTree.fromstring(figures.svg(figures.throughput_latency_grid(summary, limits=limits)))
    (ttft, tpot, itl, e2e) = (
        next((x, y) for words, x, y in places_of(drawn) if words == title) for title in figures.LATENCIES.values()
    )
    assert ttft[1] == tpot[1]
    assert itl[1] == e2e[1]
    assert ttft[0] == itl[0]
    assert tpot[0] == e2e[0]


@often
@given(latencies_ns)
def test_the_spectrum_goes_from_the_minimum_to_the_maximum_through_the_percentiles(values):
    values_ns = np.array(values, np.int64)
    points = spectrum(filled(values_ns))
    assert points[-1][:2] == (max(len(values), 1), values_ns.max() / 1e6)
    assert [ms for _, ms, _ in points] == sorted(ms for _, ms, _ in points)
    ordered = np.sort(values_ns)
    for beyond, ms, _ in points[:-1]:
        exact_ms = ordered[int(np.ceil((1 - 1 / beyond) * len(values) - 1e-4)) - 1 if beyond > 1 else 0] / 1e6
        assert exact_ms * 0.999 - 1e-6 <= ms <= exact_ms * 1.001 + 1e-6


def test_a_percentile_of_too_few_samples_is_marked_so():
    known = {round(beyond): sure for beyond, _, sure in spectrum(filled(np.arange(1, 701) * 1_000_000))}
    assert known[100]
    assert not known[700]


@often
@given(latencies_ns)
def test_a_histogram_holds_every_sample_once(values):
    histogram = filled(np.array(values, np.int64))
    edges = edges_ms([histogram, Histogram()])
    assert edges == sorted(edges)
    assert sum(shares(histogram, edges)) == pytest.approx(1, abs=1e-4)


def test_the_time_line_adds_up_to_what_was_counted(analysis):
    rows, stages = timeline_rows(analysis.summary), analysis.summary["stages"]
    for place, stage in enumerate(stages):
        mine, bin_s = [row for row in rows if row["stage"] == place], stage["timeline"]["bin_s"]
        assert sum(row["failed_per_s"] for row in mine) * bin_s == pytest.approx(stage["requests"]["failed"], abs=0.1)
        assert max(row["lag_ms"] for row in mine) == pytest.approx(stage["client"]["lag_us"]["max"] / 1000)
    assert [row["t_s"] for row in rows] == sorted(row["t_s"] for row in rows)
    assert rows[0]["t_s"] == 0


def test_what_the_server_said_stands_under_the_load_on_the_same_axis(tmp_path):
    summary = analyse(scraped_sweep(tmp_path)).summary
    panels = {panel.title: (panel, rows) for panel, rows in server_panels(summary)}
    assert list(panels) == [
        "Server: requests running",
        "Server: requests waiting",
        "Server: KV cache in use, %",
        "Server: preemptions/s",
        "GPU busy, %",
    ]
    for stage, load in enumerate(LOADS):
        begin_s = 5.0 * stage
        for name, key, value in (
            ("Server: requests running", "running", min(load, 8)),
            ("Server: requests waiting", "waiting", max(load - 8, 0)),
            ("Server: KV cache in use, %", "kv_cache_share", load * 5),
        ):
            inside = [row for row in panels[name][1] if begin_s < row["t_s"] < begin_s + 4]
            assert {(row["stage"], row[key]) for row in inside} == {(stage, value)}
    # 2 in each half of a second from 10 s on, and a rate is drawn from the scrape on that it began at
    preempted = {row["t_s"]: row["preemptions_per_s"] for row in panels["Server: preemptions/s"][1]}
    assert {at: rate for at, rate in preempted.items() if 9 < at < 14} == {
        at: 4.0 if at >= 10 else 0.0 for at in preempted if 9 < at < 14
    }
    assert {row["source"] for row in panels["GPU busy, %"][1]} == {"h0", "h1"}
    described = figures.timeline(summary).to_dict()
    assert [one["title"]["text"] for one in described["vconcat"][-5:]] == list(panels)
    by_page = [json.dumps(one).count('"field": "source"') > 0 for one in described["vconcat"]]
    assert by_page == [False] * 9 + [True]
    domains = {json.dumps(one["layer"][1]["encoding"]["x"]["scale"]) for one in described["vconcat"]}
    assert len(domains) == 1


def test_a_long_run_draws_no_more_of_the_server_than_can_be_seen_and_no_peak_less(tmp_path):
    summary = analyse(scraped_sweep(tmp_path)).summary
    for stage in summary["stages"]:
        for line in stage["server"]["timeline"]:
            for signal in (told for told in line.values() if isinstance(told, dict)):
                signal["t_s"] = [index / 500 for index in range(2_000)]
                signal["values"] = [7.0 if index == 1_234 else 1.0 for index in range(2_000)]
    panels = server_panels(summary)
    assert len(panels) == 5
    for panel, rows in panels:
        assert 1_000 < len(rows) <= 2_000
        peaks = sorted(row[panel.key] for row in rows)[-4:]
        assert peaks.count(peaks[-1]) >= len(LOADS)


def test_pages_on_one_host_are_told_apart_by_their_whole_address():
    urls = ["http://a:8000/metrics", "http://u:p@b:9400/metrics", "http://a:8000/other/metrics", "unheard of"]
    names = source_names(urls)
    assert names == {urls[0]: urls[0], urls[1]: "b:9400", urls[2]: urls[2], urls[3]: urls[3]}


def test_other_rows_can_stand_under_the_time_line(analysis):
    rows = [{"t_s": second, "kv_share": second / 20} for second in range(15)]
    described = figures.timeline(analysis.summary, [(Panel("kv_share", "KV cache in use"), rows)]).to_dict()
    assert described["vconcat"][-1]["title"]["text"] == "KV cache in use"
    assert rows in described["datasets"].values()


def test_the_waterfall_shows_requests_of_one_stretch_from_due_to_end(analysis):
    for stage, load in enumerate(LOADS):
        rows = waterfall_rows(analysis, stage)
        places = {row["place"] for row in rows}
        assert places == set(range(len(places)))
        assert min(load, 3) <= len(places) <= SHOWN
        for place in places:
            bars = [row for row in rows if row["place"] == place]
            prefill, decode = (
                next(b for b in bars if b["phase"].startswith(name)) for name in ("to the first", "decode")
            )
            assert prefill["to_s"] == decode["from_s"]
            assert (prefill["to_s"] - prefill["from_s"]) * 1000 == pytest.approx(bars[0]["ttft_ms"], abs=0.01)
            pause = next((b for b in bars if b["phase"] == "longest pause"), None)
            if bars[0]["outcome"] == "completed":
                assert pause["to_s"] - pause["from_s"] == pytest.approx(bars[0]["pause_ms"] / 1000, abs=1e-4)
                assert bars[0]["pause_ms"] > 30
    starts = [row["from_s"] for row in rows if row["phase"].startswith("to the first token")]
    assert starts == sorted(starts)


def test_loads_are_drawn_from_the_lightest_on_and_repeats_make_one_point(tmp_path):
    found = analyse(sweep(tmp_path, seconds=1.0, loads=(8, 2, 8, 4)))
    described = figures.throughput_latency(found.summary).to_dict()
    (points,) = [rows for rows in described["datasets"].values() if "words_p50" in rows[0]]
    assert [(point["load"], point["repeats"]) for point in points] == [("2", 1), ("4", 1), ("8", 2)]
    bars = figures.throughput_by_load(found.summary).to_dict()["datasets"]
    assert [bar["load"] for bar in next(iter(bars.values()))] == ["2", "4", "8"]
    spectra = figures.percentile_spectrum(found).to_dict()["datasets"].values()
    assert {row["load"] for rows in spectra for row in rows if "load" in row} == {"2", "4", "8"}


def test_an_interval_that_two_repeats_make_endless_leaves_the_picture_to_the_points(tmp_path):
    found = analyse(sweep(tmp_path, seconds=1.0, loads=(1, 16)))
    point = found.summary["curve"][1]
    for told in (point["ttft_ms"]["p50"], point["output_tokens_per_s"]):
        told["low"], told["high"] = -40 * told["value"], 40 * told["value"]
    described = figures.throughput_latency(found.summary).to_dict()
    (points,) = [rows for rows in described["datasets"].values() if "words_p50" in rows[0]]
    assert 0 < points[1]["p50_low"] < points[1]["p50"] < points[1]["p50_high"] < 2 * points[1]["p99"]
    assert 0 < points[1]["tokens_low"] < points[1]["tokens_high"] < 2 * points[1]["tokens_per_s"]


def test_an_open_end_of_an_interval_reaches_to_the_edge_of_the_picture(tmp_path):
    found = analyse(sweep(tmp_path, seconds=1.0, loads=(1, 16)))
    told = found.summary["curve"][0]["ttft_ms"]["p99"]
    assert told["high"] is None
    told["low"] = 0.9 * told["value"]
    described = figures.throughput_latency(found.summary, "ttft", "p99").to_dict()
    (points,) = [rows for rows in described["datasets"].values() if "words_p50" in rows[0]]
    most = max(point[one] for point in points for one in ("p50", "p90", "p95", "p99") if one in point)
    assert most < points[0]["p99_high"] < 1.2 * most
    assert points[0]["p99_low"] == told["low"]


def test_of_many_loads_a_distribution_shows_as_many_as_can_be_told_apart(tmp_path):
    found = analyse(sweep(tmp_path, seconds=0.5, loads=tuple(range(1, 21))))
    described = figures.percentile_spectrum(found).to_dict()
    loads = {row["load"] for rows in described["datasets"].values() for row in rows if "load" in row}
    assert len(loads) == 8
    assert {"1", "20"} <= loads


def test_the_example_of_the_docs_works(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for name in ("RUN", "OLD"):
        sweep(tmp_path / name, seconds=1.0)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert (tmp_path / "ttft.png").read_bytes().startswith(b"\x89PNG")
