"""A real browser: Debian's Chromium without a screen, driven by Playwright.

Where there is none it is installed, if this is root on a Debian; otherwise these tests are skipped, and say so loudly.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from page_marks import drawn
from playwright.sync_api import Browser, Page, sync_playwright
from sweep_run import HOSTILE, hostile, scraped_sweep, sweep

from analysis.page import Shown, html
from analysis.page.script import bundle
from analysis.summary import analyse

NAMES = ("chromium", "chromium-browser", "google-chrome")

INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium"

SATURATION = {
    "schema": 1,
    "question": "slo",
    "load": {"mode": "concurrency", "value": 4, "low": 3, "high": 6},
    "output_tokens_per_s": {"value": 500.0, "low": 450.0, "high": 550.0},
}


def found() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def chromium_path() -> str:
    path = found()
    if path is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(
            ["sh", "-c", f"{INSTALL} || (apt-get update && {INSTALL})"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=540, check=False,
        )  # fmt: skip
        path = found()
    if path is None:
        pytest.skip(f"NO BROWSER, SO THE PAGE IS NOT TESTED IN ONE: none of {', '.join(NAMES)} is installed")
    return path


# Ended with its module: while it lives, an event loop runs in this thread, and no other may.
@pytest.fixture(scope="module")
def chromium(chromium_path: str) -> Iterator[Browser]:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # which root cannot have
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=arguments, timeout=120_000)
        yield browser
        browser.close()


@dataclass
class Pages:
    """The pages under test, as files."""

    one: Path  # a sweep of three loads
    two: Path  # that and another
    hostile: Path
    scraped: Path  # with the server's own story
    runs: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    folder = tmp_path_factory.mktemp("pages")
    script = bundle(folder / "cache")
    first, second = analyse(sweep(folder / "first")), analyse(sweep(folder / "second", loads=(2, 8), model="other"))
    evil = analyse(hostile(folder / "evil"))
    scraped = analyse(scraped_sweep(folder / "scraped"))
    one, two, bad, server = (folder / f"{name}.html" for name in ("one", "two", "hostile", "scraped"))
    made = Pages(one, two, bad, server, {"first": first, "second": second, "scraped": scraped})
    made.one.write_text(html([Shown("first", first, SATURATION)], script))
    made.two.write_text(html([Shown("first", first), Shown("second", second)], script))
    made.hostile.write_text(html([Shown(HOSTILE, evil), Shown(f"2 {HOSTILE}", evil)], script))
    made.scraped.write_text(html([Shown("scraped", scraped)], script))
    return made


Opened = Callable[..., Page]


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Opened]:
    """Opens a page, wholly drawn. Whatever it then does, it says nothing on the console and asks for nothing."""
    contexts, complaints, requests, paths = [], [], [], []

    def open_page(path: Path, *, width: int = 1280, **options: Any) -> Page:
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        paths.append(path.as_uri())
        page.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            drawn(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if url != "data:,"] == paths
