"""The large run that the page is measured with is a run, and its page is one."""

from report_page import LOADS, write_large_run

from analysis.page import Shown, html
from analysis.summary import analyse


def test_the_large_run_has_all_its_requests_and_a_page_of_the_same_size(tmp_path):
    sizes = []
    for requests in (4_000, 40_000):
        write_large_run(tmp_path / f"{requests}", requests, tokens=3)
        analysis = analyse(tmp_path / f"{requests}")
        stages = analysis.summary["stages"]
        assert [stage["requests"]["sent"] for stage in stages] == [requests // len(LOADS)] * len(LOADS)
        assert all(0.002 < stage["requests"]["failed"] / stage["requests"]["sent"] < 0.005 for stage in stages)
        sizes.append(len(html([Shown("run", analysis)], "")))
    assert sizes[1] < 1.5 * sizes[0]
