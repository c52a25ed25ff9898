"""The scraping process against servers that are well, dead, slow and hostile."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest
from asked import PATIENCE_S, gone, in_one_of, until
from canned import canned, refused_port, response
from scraped import scrapes_in

from loadgen.clock import NS_PER_S, monotonic_ns
from loadgen.scrape.plan import ScrapePlan, Source
from loadgen.scrape.presets import WANTED
from loadgen.scrape.process import Scraper, borders
from loadgen.scrape.sampler import MOST_BODY_BYTES

PAGE = (
    b'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0"} 3\n'
    b'vllm:generation_tokens_total{engine="0"} 17\nnot_kept_total 1\nvllm:num_preemptions_total{ 0\n'
)
GOOD = response(PAGE, "text/plain; version=0.0.4")
EVERY_NS = NS_PER_S // 10

ENTRY = {"ramp_up_s": 0.0, "warmup_s": 0.2, "warmup_requests": 0, "duration_s": 0.3}


def sources(*urls: str) -> tuple[Source, ...]:
    return tuple(Source(url, url) for url in urls)


@contextmanager
def scraping(tmp_path, *found: Source, **changes):
    """A scraper on these pages; gives it, what it says, and its file."""
    said: list[str] = []
    path = tmp_path / "scrape.arrow"
    plan = ScrapePlan(found, EVERY_NS, str(path), "r", None, **changes)
    with Scraper(plan, said.append) as scraper:
        pid = scraper._process.pid
        until(lambda: path.exists() and path.stat().st_size, "the process")
        yield scraper, said, path
    assert gone(pid)


def heard(scraper, said):
    """Wait until the process has said something."""

    def listen():
        scraper.listen()
        return said

    until(listen, "words")


@pytest.mark.alone
def test_a_page_is_sampled_on_schedule_and_at_the_borders(tmp_path):
    in_one_of(3, lambda attempt: scraped_at_the_borders(tmp_path / str(attempt)))


def scraped_at_the_borders(folder):
    """If the machine stands still until several borders are due at once, one of them is left out, for it would hurry."""
    folder.mkdir()
    with canned(GOOD) as server, scraping(folder, *sources(server.url)) as (scraper, said, path):
        start_ns = monotonic_ns() + NS_PER_S // 4
        scraper.begin_stage(ENTRY, start_ns)
        scraper.begin_stage(ENTRY, start_ns)  # as a watcher does, at each look
        until(lambda: len(server.requests) >= 15, "scrapes beyond the last border")
        scraper.end_stage()
        scraper.listen()
    facts, told, rows = scrapes_in(path)
    assert said == []
    assert facts["sources"] == [server.url]
    assert facts["every_ns"] == EVERY_NS
    assert all(one["error"] is None and one["status"] == 200 and one["bad_lines"] == 1 for one in told)
    at_borders = sorted(one["t_send_ns"] for one in told if one["border"])
    assert len(at_borders) == 5, "start, end of the warm-up, end of the window, end of the stage, end of the run"
    assert all(after >= due for after, due in zip(at_borders, borders(ENTRY, start_ns), strict=False)), "never before"
    assert {row["name"] for row in rows} == {"vllm:num_requests_running", "vllm:generation_tokens_total"} <= WANTED
    assert {row["labels"] for row in rows} == {'{"engine": "0"}'}
    assert len(rows) == 2 * len(told)
    assert {(row["t_send_ns"], row["t_recv_ns"]) for row in rows} == {(o["t_send_ns"], o["t_recv_ns"]) for o in told}
    assert all(b"Accept-Encoding: identity" in request for request in server.requests)


def test_nobody_there_is_said_once_and_recorded_each_time(tmp_path):
    url = f"http://127.0.0.1:{refused_port()}/metrics"
    with scraping(tmp_path, *sources(url)) as (scraper, said, path):
        heard(scraper, said)
        until(lambda: len(scrapes_in_progress(path)) > 3, "more of them")
        scraper.listen()
    assert said == [f"--scrape {url}: cannot connect: connection refused"]
    _, told, rows = scrapes_in(path)
    assert {one["error"] for one in told} == {"cannot connect: connection refused"}
    assert rows == []


def scrapes_in_progress(path):
    try:
        return scrapes_in(path)[1]
    except (OSError, ValueError):  # a batch is half written
        return []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (response(b"x" * (MOST_BODY_BYTES + 1), "text/plain"), "longer than 8 MB"),
        (response(PAGE, "text/plain", "200 OK", "Content-Encoding: gzip"), "compressed"),
        (response(b"<html>", "text/html", "404 Not Found"), "status 404"),
        (response(b"", "", "302 Found", "Location: http://127.0.0.1:1/"), "status 302"),
        (response(b"up 1\n\xff\xfe\x00", "text/plain"), "no metric that is known"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\x1b[2J", "Bad status line"),
        (b"", "disconnected"),
    ],
    ids=["endless", "compressed", "missing", "elsewhere", "other", "no-http", "nothing"],
)
def test_a_page_that_is_none_is_told_in_words(answer, words, tmp_path):
    with canned(answer) as server, scraping(tmp_path, *sources(server.url)) as (scraper, said, path):
        heard(scraper, said)
    assert words.lower() in said[0].lower()
    assert "\x1b" not in said[0]
    _, told, rows = scrapes_in(path)
    assert rows == []
    assert words.lower() in told[0]["error"].lower()


def test_a_server_that_does_not_answer_holds_up_neither_the_others_nor_the_end(tmp_path):
    released = threading.Event()

    def hang(_request: bytes) -> bytes:
        released.wait(PATIENCE_S)
        return GOOD

    with canned(hang) as slow, canned(GOOD) as quick:
        with scraping(tmp_path, *sources(slow.url, quick.url)) as (_, _, path):
            until(lambda: len(quick.requests) >= 8, "scrapes of the other")
            began_s = time.monotonic()
        assert time.monotonic() - began_s < PATIENCE_S / 2, "the process left by itself or was ended"
        released.set()
    _, told, rows = scrapes_in(path)
    assert {row["source"] for row in rows} == {1}
    assert {one["error"] for one in told if one["source"] == 0} <= {
        "not answered before the run's end",
        "no answer within 5 s",
    }
    assert any(one["source"] == 0 for one in told)


def test_the_key_goes_with_the_pages_it_is_for_and_into_no_words(tmp_path):
    def quoting(request: bytes) -> bytes:
        return response(b"x", "text/plain", "200 OK", "Transfer-Encoding: sk-secret-123")

    with canned(quoting) as mine, canned(GOOD) as other:
        found = (Source(mine.url, mine.url, (("Authorization", "Bearer sk-secret-123"),)), *sources(other.url))
        with scraping(tmp_path, *found, secrets=("sk-secret-123",)) as (scraper, said, path):
            heard(scraper, said)
            until(lambda: mine.requests and other.requests, "both")
    assert b"sk-secret-123" in mine.requests[0]
    assert b"sk-secret-123" not in other.requests[0]
    assert "sk-secret" not in "".join(said)
    assert b"sk-secret" not in path.read_bytes()


def test_a_scraper_that_is_killed_is_said_and_ends_nothing(tmp_path):
    with canned(GOOD) as server, scraping(tmp_path, *sources(server.url)) as (scraper, said, _):
        os.kill(scraper._process.pid, signal.SIGKILL)
        scraper._process.wait(PATIENCE_S)
        heard(scraper, said)
        scraper.begin_stage(ENTRY, monotonic_ns())
        scraper.end_stage()
        scraper.listen()
    assert said == ["--scrape: the scraping process has ended; the run goes on without it"]


def test_the_borders_of_a_stage_are_those_that_are_known_before():
    by_count = {"ramp_up_s": 0.0, "warmup_s": 0.0, "warmup_requests": 5, "duration_s": 10.0}
    assert borders(by_count, 7) == (7,)
    assert borders(by_count | {"warmup_requests": 0, "duration_s": None}, 7) == (7,)
    timed = by_count | {"warmup_requests": 0, "ramp_up_s": 1.0, "warmup_s": 2.0}
    assert borders(timed, 7) == (7, 7 + 3 * NS_PER_S, 7 + 13 * NS_PER_S)
