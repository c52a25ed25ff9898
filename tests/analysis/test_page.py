import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from sweep_run import HOSTILE, LOADS, hostile, scraped_sweep, sweep
from synthetic import write_run

from analysis.page import Glossary, Shown, as_data, html
from analysis.page.headline import headline
from analysis.page.listings import server_table
from analysis.page.script import bundle
from analysis.summary import analyse


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts, self.within = [], {"script": [], "style": []}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag in self.texts:
            self.texts[tag].append("")
            self.within = tag

    def handle_endtag(self, tag):
        self.within = None

    def handle_data(self, data):
        if self.within:
            self.texts[self.within][-1] += data


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    return analyse(sweep(tmp_path_factory.mktemp("page") / "run"))


def test_the_same_runs_give_the_same_page(analysis):
    runs = [Shown("a", analysis)]
    assert html(runs, "x") == html(runs, "x")


def test_the_policy_names_the_pages_own_scripts_and_style_and_allows_nothing_else(analysis):
    page = Elements(html([Shown("a", analysis)], "window.vegaEmbed = 1;\r\n'</script>'"))
    (policy,) = [a["content"] for tag, a in page.found if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"

    def source(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    data, *scripts = page.texts["script"]
    assert rules["script-src"].split() == [source(text) for text in scripts]
    assert rules["style-src"].split() == [source(text) for text in page.texts["style"]]
    assert not {"connect-src", "frame-src", "font-src"} & set(rules)
    assert "unsafe" not in policy
    assert json.loads(data)["charts"]


def test_nothing_is_loaded_and_nothing_stands_in_an_attribute_that_runs(analysis):
    for tag, attributes in Elements(html([Shown("a", analysis)], "x")).found:
        assert tag not in ("img", "iframe", "object", "embed", "form", "base")
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert attributes.get("src") is None
        assert attributes.get("href", "#").startswith(("#", "data:,"))


def test_hostile_words_are_text_and_stay_as_they_were_said(tmp_path):
    text = html([Shown(HOSTILE, analyse(hostile(tmp_path))), Shown("other", analyse(sweep(tmp_path / "b")))], "x")
    page = Elements(text)
    assert [tag for tag, _ in page.found].count("script") == 3
    assert "img" not in {tag for tag, _ in page.found}
    assert text.count("&lt;img src=") > 5
    assert "{{" in text, "what looks like a template is not filled in"
    assert "49" not in re.findall(r"&#39;(\d+)", text)
    stages = json.loads(page.texts["script"][0])["datasets"]
    assert any(HOSTILE in values for columns in stages.values() for values in columns.values())


@pytest.mark.parametrize("words", ["</script>", "<!--", "]]>", "\u2028", "&lt;", "\ud800"])
def test_data_can_never_end_their_block(words):
    text = as_data({words: words})
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == {words: words}


def test_the_first_screen_says_how_much_the_endpoint_takes_within_its_objectives(analysis):
    told = headline(analysis.summary)
    met = [s for s in analysis.summary["stages"] if s["slo"]["ttft"]["met"]]
    assert 0 < len(met) < len(LOADS)
    assert f"at {met[-1]['name']}" in told["sentence"]
    assert told["sentence"].startswith("Within its objectives the endpoint gave at most ")
    titles = [tile["title"] for tile in told["tiles"]]
    assert titles[:2] == ["Output tokens/s", "Goodput"]
    saturation = {
        "question": "knee",
        "load": {"mode": "rate", "value": 12.5, "low": 11.0, "high": 14.0},
        "output_tokens_per_s": {"value": 900.0, "low": 900.0, "high": 900.0},
        "limited_by": "server",
    }
    words = headline(analysis.summary, saturation)["sentence"]
    assert words.startswith("The endpoint has its knee at rate 12.5 (11 to 14): 900.0 output tokens/s.")
    for limited_by, told in (
        ("client", "The load generator was the limit"),
        ("bounds", "--most was the limit, not the endpoint"),
        ("budget", "The search was not decided"),
    ):
        assert headline(analysis.summary, saturation | {"limited_by": limited_by})["sentence"].startswith(told)
    nothing = saturation | {"load": {"mode": "rate", "value": None, "low": None, "high": None}}
    assert headline(analysis.summary, nothing) == headline(analysis.summary)


def test_objectives_without_a_percentile_are_told_by_goodput(tmp_path):
    found = analyse(sweep(tmp_path, slo={"ttft": {"limit_ms": 45.0}}))
    best = max(found.summary["stages"], key=lambda stage: stage["goodput_per_s"])
    assert f"met all objectives, at {best['name']}" in headline(found.summary)["sentence"]
    none = analyse(sweep(tmp_path / "none", slo={"ttft": {"limit_ms": 1.0}}))
    assert headline(none.summary)["sentence"].startswith("No request met all objectives")


def test_a_run_of_which_nothing_was_measured_has_a_page(tmp_path):
    text = html([Shown("a", analyse(write_run(tmp_path, [], marks=[])))], "x")
    assert "Nothing was measured." in text
    assert "Suspect" in text


def test_errors_stand_with_their_meaning_and_their_loads(analysis):
    text = html([Shown("a", analysis)], "x", Glossary({"truncated": "the response ended before its end sign"}))
    assert "the response ended before its end sign" in text
    failed = analysis.summary["stages"][-1]["requests"]["failed"]
    assert f"concurrency {LOADS[-1]} ({failed})" in text


def test_the_drawing_library_is_kept_and_a_damaged_copy_is_not_used(tmp_path):
    text = bundle(tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.read_text() == text
    assert bundle(tmp_path / "cache") == text
    kept.write_text(text[:1000])
    assert bundle(tmp_path / "cache") == text == kept.read_text()
    (tmp_path / "file").touch()
    assert bundle(tmp_path / "file" / "cache") == text, "a cache that cannot be made is done without"
    assert "vegaEmbed" in text


def test_the_servers_story_is_told_in_words_and_numbers_and_only_where_it_was_scraped(tmp_path, analysis):
    scraped = analyse(scraped_sweep(tmp_path))
    page = Elements(html([Shown("a", scraped)], "x"))
    (words,) = [attributes["aria-label"] for _, attributes in page.found if attributes.get("id") == "timeline"]
    assert "Server: KV cache in use, %" in words
    assert f"concurrency {LOADS[-1]}: at most 8 running, at most 8 waiting, KV cache at most 80%" in words
    table = server_table(scraped.summary["stages"])
    assert table["head"][:4] == ["load", "running, mean / most", "waiting, mean / most", "KV cache, mean / most"]
    assert "prefix hits" not in table["head"], "which nobody told"
    assert table["rows"][-1][:4] == ["concurrency 16", "8.00 / 8.00", "8.00 / 8.00", "80.0% / 80.0%"]
    assert "own story" in html([Shown("a", scraped)], "x")
    assert "own story" not in html([Shown("a", analysis)], "x")


def test_what_the_machine_can_measure_at_best_stands_beside_the_results(tmp_path, analysis):
    floor = {"at": "2026-11-25T01:02:03", "stamp_error_us": {"p50": 0.4, "p99": 2.5}, "lateness_us": {"p99": 60.0}}
    run_dir = sweep(tmp_path)
    facts = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps(facts | {"floor": floor}))
    told = (
        "Floor of this machine (loadgen doctor, 2026-11-25): stamps 0.400 us (p50), 2.50 us (p99); "
        "sends 60.00 us late (p99)."
    )
    assert f'<p class="floor">{told}</p>' in html([Shown("a", analyse(run_dir))], "x")
    assert 'class="floor"' not in html([Shown("a", analysis)], "x")
