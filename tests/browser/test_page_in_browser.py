"""report.html as its readers have it: in a browser, on a phone, in the dark, by keyboard, and with hostile words in it."""

import re
import socket
from itertools import pairwise

import pytest
from page_marks import drawn, marks, points, told_at
from sweep_run import HOSTILE, LOADS

from analysis.figures.panels import server_panels
from analysis.figures.requests import waterfall_rows

pytestmark = pytest.mark.timeout(600)  # a browser on a busy machine, and its installation where it is missing

CURVES = ("curve-ttft", "curve-tpot", "curve-itl", "curve-e2e")
CHARTS = (*CURVES, "by-load", "percentiles", "histogram", "timeline", "waterfall")


def test_every_chart_is_drawn_with_the_marks_of_its_data(opened, pages):
    page = opened(pages.one)
    for chart in CHARTS:
        assert page.locator(f"#{chart} svg").count() == 1, chart
    for metric in ("ttft", "tpot", "itl", "e2e"):
        assert marks(page, f"curve-{metric}", "symbol").count() == 2 * len(LOADS)  # each with a wider reach
        assert marks(page, f"curve-{metric}", "line").count() == 1
    assert "most within SLO: concurrency 4" in page.locator("#curve-itl").text_content()
    assert "SLO p99 ≤ 60 ms" in page.locator("#curve-ttft").text_content()
    assert "SLO" not in page.locator("#curve-itl").text_content().replace("most within SLO", "")
    assert marks(page, "by-load", "rect").count() == len(LOADS)
    assert marks(page, "percentiles", "line").count() >= len(LOADS)
    assert marks(page, "histogram", "area").count() == len(LOADS)
    assert marks(page, "timeline", "area").count() == 4 * len(LOADS)
    assert len(waterfall_rows(pages.runs["first"], len(LOADS) - 1)) == marks(page, "waterfall", "rect").count()


def test_the_first_screen_has_the_verdict_the_sentence_and_the_numbers(opened, pages):
    page = opened(pages.one)
    for what in (".badge", ".sentence", ".tiles"):
        box = page.locator(what).first.bounding_box()
        assert box["y"] + box["height"] < 900
    assert page.locator(".sentence").text_content().startswith("The endpoint keeps its objectives up to concurrency 4")
    assert page.locator(".badge").text_content() in ("Valid", "Suspect")


def test_the_percentile_switch_moves_the_points_of_all_curves(opened, pages):
    page = opened(pages.one)
    before = {metric: points(page, f"curve-{metric}") for metric in ("ttft", "itl")}
    page.locator("input[name=percentile][value=p99]").check()
    page.wait_for_function(
        "before => document.querySelector('#curve-itl g.mark-symbol.role-mark > *').getAttribute('transform') !== before",
        arg=before["itl"][0],
    )
    assert all(points(page, f"curve-{metric}") != was for metric, was in before.items())
    page.locator("input[name=percentile][value=p50]").check()
    page.wait_for_function(
        "before => document.querySelector('#curve-itl g.mark-symbol.role-mark > *').getAttribute('transform') === before",
        arg=before["itl"][0],
    )


def test_the_percentile_that_was_chosen_stays_when_the_curves_are_drawn_anew(opened, pages):
    page = opened(pages.one)
    page.locator("input[name=percentile][value=p99]").check()
    page.locator("#theme").click()
    drawn(page)
    anew = points(page)
    page.locator("input[name=percentile][value=p50]").check()
    page.wait_for_function(
        "before => document.querySelector('#curve-ttft g.mark-symbol.role-mark > *').getAttribute('transform') !== before",
        arg=anew[0],
    )


def test_the_latency_switch_shows_another_distribution(opened, pages):
    page = opened(pages.one)
    assert "TTFT, ms" in page.locator("#percentiles").text_content()
    page.locator("input[name=metric][value=itl]").check()
    drawn(page)
    assert "ITL, ms" in page.locator("#percentiles").text_content()
    assert "share of the gaps" in page.locator("#histogram").text_content()


def test_the_load_that_is_chosen_is_the_one_whose_requests_are_shown(opened, pages):
    page = opened(pages.one)
    page.locator("select[data-param=stage]").select_option("0")
    drawn(page)
    assert marks(page, "waterfall", "rect").count() == len(waterfall_rows(pages.runs["first"], 0))
    visible = [one.text_content() for one in page.locator("#requests ~ div summary").all() if one.is_visible()]
    assert visible == ["Slowest to the first token, at concurrency 1", "Slowest to the end, at concurrency 1"]
    page.get_by_text("Slowest to the end, at concurrency 1", exact=True).click()
    slowest = pages.runs["first"].details[0].slowest_e2e[0]
    assert page.locator("details[open]").get_by_text(slowest.response_id, exact=True).is_visible()


def test_a_page_of_two_runs_lays_their_curves_over_each_other_and_switches_the_details(opened, pages):
    page = opened(pages.two)
    assert marks(page, "curve-ttft", "line").count() == 2
    assert marks(page, "timeline", "area").count() == 4 * len(LOADS)
    page.locator("input[name=run][value='1']").check()
    drawn(page)
    assert marks(page, "timeline", "area").count() == 4 * 2
    (select,) = [one for one in page.locator("select").all() if one.is_visible()]
    assert select.locator("option").all_text_contents() == ["concurrency 2", "concurrency 8"]


def test_the_pointer_is_told_what_it_is_on(opened, pages):
    page = opened(pages.one)
    told = told_at(page, marks(page, "curve-ttft", "symbol").nth(1))
    assert "output tokens/s" in told
    assert "TTFT p99, ms" in told
    page.mouse.move(2, 2)
    page.wait_for_selector("#tip", state="hidden")


def test_the_moment_under_the_pointer_is_marked_in_every_row_of_the_time_line(opened, pages):
    page = opened(pages.one)
    rows = 5
    cursors = marks(page, "timeline", "rule").and_(page.locator("[opacity='1'], :not([opacity])"))
    before = cursors.count()
    told = told_at(page, marks(page, "timeline", "area").nth(1))
    assert "Client: worst lag, ms" in told
    assert cursors.count() == before + rows


def test_what_the_server_said_stands_below_the_load_with_a_line_for_each_page_that_tells_the_same(opened, pages):
    page = opened(pages.scraped)
    titles = [panel.title for panel, _ in server_panels(pages.runs["scraped"].summary)]
    assert [title for title in titles if title in page.locator("#timeline").text_content()] == titles
    assert len(titles) == 5
    assert marks(page, "timeline", "area").count() == (4 + 4) * len(LOADS)
    lines = marks(page, "timeline", "line")
    of_gpu = [one.get_attribute("stroke") for one in lines.all()[-2 * len(LOADS) :]]
    assert len(set(of_gpu)) == 2
    assert "h1" in page.locator("#timeline .role-legend").text_content()
    assert "KV cache in use" in page.locator("#timeline").get_attribute("aria-label")
    told = told_at(page, marks(page, "timeline", "rule").last)
    assert "GPU busy, %" in told
    assert "page" in told
    assert page.get_by_role("heading", name="The server's own story").is_visible()
    assert page.locator(".server tbody tr").count() == len(LOADS)


def test_the_moment_under_the_pointer_is_marked_in_the_rows_of_the_server_too(opened, pages):
    page = opened(pages.scraped)
    shown = page.locator("#timeline svg g.mark-rule.role-mark > *").and_(page.locator("[opacity='1'], :not([opacity])"))
    before = shown.count()
    told_at(page, marks(page, "timeline", "area").nth(1))
    assert shown.count() == before + 10


@pytest.mark.parametrize(
    ("which", "width"), [("one", 390), ("two", 320), ("hostile", 390), ("two", 768), ("scraped", 390)]
)
def test_nothing_reaches_beyond_the_screen_of_a_phone(opened, pages, which, width):
    page = opened(getattr(pages, which), width=width, has_touch=True)
    for details in page.locator("summary").all():
        if details.is_visible():
            details.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for chart in CHARTS:
        box = page.locator(f"#{chart} svg").bounding_box()
        assert box is None or box["x"] + box["width"] <= width, chart


def test_charts_follow_the_width_of_the_window(opened, pages):
    page = opened(pages.one)
    wide = page.locator("#timeline svg").bounding_box()["width"]
    page.set_viewport_size({"width": 500, "height": 800})
    page.wait_for_function("document.querySelector('#timeline svg').getBoundingClientRect().width < 500")
    drawn(page)
    assert page.locator("#timeline svg").bounding_box()["width"] < wide / 2


def test_every_switch_is_reached_and_moved_by_keyboard(opened, pages):
    page = opened(pages.one)
    reached = []
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("(e => e.name || e.dataset.param || e.id || e.tagName.toLowerCase())(document.activeElement)")
        )
        if reached[-1] == "percentile" and "moved" not in reached:
            before = points(page)
            page.keyboard.press("ArrowRight")
            page.wait_for_function(
                "b => document.querySelector('#curve-ttft g.mark-symbol.role-mark > *').getAttribute('transform') !== b",
                arg=before[0],
            )
            assert page.evaluate("document.activeElement.value") == "p90"
            # Where the keyboard is can be seen.
            assert "solid" in page.evaluate("getComputedStyle(document.activeElement.nextElementSibling).outlineStyle")
            reached.append("moved")
        if reached[-1] == "body":
            break
    assert {"a", "theme", "percentile", "metric", "stage", "summary"} <= set(reached)
    assert "moved" in reached


CONTRASTS = """() => {
    const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const parts = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = (c) => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
    const behind = (e) => {
        for (; e; e = e.parentElement) {
            const c = parts(getComputedStyle(e).backgroundColor);
            if (c.length === 3 || c[3] > 0.99) return c;
        }
        return [255, 255, 255];
    };
    const found = [];
    for (const e of document.querySelectorAll("body *")) {
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        if (!own || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(e.tagName) || !e.getClientRects().length) continue;
        const style = getComputedStyle(e);
        const ink = parts(e instanceof SVGElement ? style.fill : style.color);
        const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_has_enough_contrast_in_light_and_in_dark(opened, pages, scheme):
    page = opened(pages.scraped, color_scheme=scheme)
    page.get_by_text("What was asked for").click()
    assert page.evaluate(CONTRASTS) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 200) == (scheme == "dark")


def test_the_theme_can_be_chosen_and_the_charts_go_with_it(opened, pages):
    page = opened(pages.one, color_scheme="light")
    before = page.locator("#curve-ttft svg g.mark-line path").first.get_attribute("stroke")
    page.locator("#theme").click()
    drawn(page)
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.locator("#curve-ttft svg g.mark-line path").first.get_attribute("stroke") != before
    page.emulate_media(color_scheme="dark")
    # A change of the system is told with a frame: without one in between there was none.
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("html[data-theme=light]", state="attached")
    drawn(page)


PAPER_PX = 718  # the width of A4 less the margins that browsers leave


@pytest.mark.parametrize("which", ["one", "two", "scraped"])
def test_nothing_reaches_beyond_the_paper_and_every_chart_is_on_it(opened, pages, which):
    page = opened(getattr(pages, which))
    page.emulate_media(media="print")
    page.set_viewport_size({"width": PAPER_PX, "height": 1000})
    is_narrow = "most => document.querySelector('#timeline svg')?.getAttribute('width') < most"
    page.wait_for_function(is_narrow, arg=PAPER_PX)
    drawn(page)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.documentElement.scrollWidth") <= PAPER_PX
    for scrolled in page.locator(".scroll").all():
        assert scrolled.evaluate("one => one.scrollWidth <= one.clientWidth"), scrolled.get_attribute("aria-label")
    # A number that is cut in two is another number.
    numbers = page.locator("table.loads td, .server td:not(.words):not(:last-child)")
    assert all(
        one.evaluate("one => one.getClientRects().length === 1 && one.clientHeight < 30") for one in numbers.all()
    )
    widths = {chart: page.locator(f"#{chart} svg").bounding_box()["width"] for chart in CHARTS}
    for chart, width in widths.items():
        assert width > PAPER_PX * (0.4 if chart in (*CURVES, "percentiles", "histogram") else 0.8), chart
        assert page.locator(f"#{chart} svg").bounding_box()["height"] < 880, "a page at most"


def test_what_is_closed_is_open_on_paper_and_the_switches_tell_what_they_stand_at(opened, pages):
    page = opened(pages.one)
    page.locator("input[name=percentile][value=p90]").check()
    page.get_by_text("What was asked for").click()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    percentiles = page.locator("fieldset[data-param=percentile] span")
    assert [one.text_content() for one in percentiles.all() if one.is_visible()] == ["p90"]
    assert not page.locator("#theme").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 1, "which the reader had opened"


def test_paper_is_light_in_the_dark_too(opened, pages):
    page = opened(pages.one, color_scheme="dark")
    assert page.locator("#curve-ttft").get_attribute("data-theme") == "dark"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#curve-ttft svg").evaluate("one => getComputedStyle(one).filter").startswith("invert(1)")


def test_every_chart_is_told_in_words_and_every_control_has_a_name(opened, pages):
    page = opened(pages.one)
    for plot in page.locator(".plot").all():
        assert plot.get_attribute("role") == "img"
        assert len(plot.get_attribute("aria-label")) > 60
    words = page.locator("#curve-ttft").get_attribute("aria-label")
    assert all(f"concurrency {load}:" in words for load in LOADS)
    for name, kind in (
        ("p99", "radio"),
        ("ITL", "radio"),
        ("Dark theme", "button"),
        ("Load whose", "combobox"),
    ):
        assert page.get_by_role(kind, name=name).count() == 1
    assert page.get_by_role("group", name="Percentile").count() == 1
    assert page.locator(".plot > div:not([aria-hidden=true])").count() == 0


@pytest.mark.parametrize("which", ["one", "two"])
def test_headings_make_an_outline_without_gaps(opened, pages, which):
    page = opened(getattr(pages, which))
    levels = [int(one.evaluate("e => e.tagName[1]")) for one in page.locator("h1, h2, h3").all()]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_hostile_words_do_nothing_and_are_shown_as_they_are(opened, pages):
    page = opened(pages.hostile)
    for summary in page.locator("summary").all():
        if summary.is_visible():
            summary.click()
    page.locator("input[name=run][value='1']").check()
    drawn(page)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 3
    assert HOSTILE in page.locator("h2.what").first.text_content()
    assert HOSTILE in page.locator("#by-load").text_content() or "</script>" in page.locator("#by-load").text_content()
    assert HOSTILE in told_at(page, marks(page, "by-load", "rect").first)
    assert page.locator("#tip img").count() == 0


def test_the_browser_itself_would_stop_a_script_a_request_and_an_evaluation(opened, pages, chromium):
    context = chromium.new_context()
    page = context.new_page()
    page.goto(pages.one.as_uri())
    drawn(page)
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        _try_everything(page, somebody.getsockname()[1])
        somebody.settimeout(0.5)
        with pytest.raises(TimeoutError):  # nobody has called
            somebody.accept()
    context.close()


def _try_everything(page, port):
    attempt = """(port) => {
        const script = document.createElement("script");
        script.textContent = "window.injected = 1";
        document.body.append(script);
        const image = document.createElement("img");
        image.src = `http://127.0.0.1:${port}/x.png`;
        document.body.append(image);
        document.body.insertAdjacentHTML("beforeend", "<p onclick='window.injected = 2' id=p style='color:red'>x</p>");
        document.getElementById("p").click();
    }"""
    page.evaluate(attempt, port)
    assert page.evaluate("window.injected") is None
    script = "(port) => fetch(`http://127.0.0.1:${port}/x`).then(() => 'sent', (error) => error.name)"
    assert page.evaluate(script, port) == "TypeError"


def test_without_scripts_every_table_can_be_read(opened, pages):
    page = opened(pages.one, java_script_enabled=False)
    assert page.locator("noscript p").is_visible()
    assert page.locator("table.loads tbody tr").count() == len(LOADS)
    shown = [one for one in page.locator("summary").all() if one.is_visible()]
    assert len(shown) == page.locator("summary").count()
