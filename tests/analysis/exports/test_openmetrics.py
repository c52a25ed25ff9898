import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from synthetic import START_NS, row, stage_plan, write_run

from analysis import summary
from analysis.exports import openmetrics


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


@pytest.fixture(scope="module")
def found(run_dir, tmp_path_factory):
    (path,) = openmetrics.write(run_dir, tmp_path_factory.mktemp("openmetrics"), 0)
    return families(path.read_text())


def test_prometheus_own_parser_reads_the_figures_of_the_summary(run_dir, found):
    stages = summary.summarize(run_dir)["stages"]
    for key, (name, _) in openmetrics.LATENCIES.items():
        family = found[f"loadgen_{name}"]
        assert (family.type, family.unit) == ("summary", "seconds")
        for stage in stages:
            if stage[key] is None:
                continue
            mine = [s for s in family.samples if s.labels["stage"] == str(stage["stage"])]
            quantiles = {s.labels["quantile"]: s.value for s in mine if "quantile" in s.labels}
            assert quantiles["0.99"] == pytest.approx(stage[key]["p99"] / 1e3)
            assert quantiles["0.5"] == pytest.approx(stage[key]["p50"] / 1e3)
            rest = {s.name: s.value for s in mine if "quantile" not in s.labels}
            assert rest[f"loadgen_{name}_count"] == stage[key]["count"]
            assert rest[f"loadgen_{name}_sum"] == pytest.approx(stage[key]["mean"] * stage[key]["count"] / 1e3)
    outcomes = {(s.labels["stage"], s.labels["outcome"]): s.value for s in found["loadgen_requests"].samples}
    assert outcomes["1", "failed"] == 20
    assert outcomes["1", "dropped"] == 20
    assert ("0", "dropped") not in outcomes
    assert {s.labels["error"]: s.value for s in found["loadgen_errors"].samples} == {"http-503": 20}


def test_a_quantile_that_too_few_values_stand_behind_is_named(run_dir, found):
    doubted = {
        (s.labels["stage"], s.labels["metric"], s.labels["quantile"]) for s in found["loadgen_unreliable"].samples
    }
    assert {quantile for stage, name, quantile in doubted if (stage, name) == ("0", "ttft_seconds")} == {
        "0.99", "0.999", "0.9999",
    }  # fmt: skip
    (calm, _) = summary.summarize(run_dir)["stages"]
    assert calm["ttft_ms"]["count"] < 662 <= calm["itl_ms"]["count"]
    assert ("0", "itl_seconds", "0.99") not in doubted


def test_hostile_words_are_labels_and_nothing_else(tmp_path):
    rows = [row(START_NS, [START_NS + 5], error='a"b\\c')]
    name = 'x"} 1\n# EOF\nfake 2\x1b[31m'
    run_dir = write_run(tmp_path, rows, [stage_plan(name=name)], spec={"model": name, "slo": None})
    told = families(openmetrics.text(summary.summarize(run_dir)))
    assert "fake" not in told
    (info,) = told["loadgen_run"].samples
    assert info.labels["model"] == name.replace("\x1b", " ")
    assert [s.labels["error"] for s in told["loadgen_errors"].samples] == ['a"b\\c']


def test_a_run_of_nothing_is_still_an_exposition(tmp_path):
    told = families(openmetrics.text(summary.summarize(write_run(tmp_path, [], marks=[]))))
    assert [s.value for s in told["loadgen_valid"].samples] == [0]
