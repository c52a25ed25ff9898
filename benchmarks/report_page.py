"""report.html of a run of a million requests is under 5 MB, and can be used within 2 s of being opened.

Truth: the size of the file; the browser's own clock, from the start of the navigation to the moment at which the switches
answer and every chart on the first screen is drawn (and to the one at which all are).

Method: a capture of four stages is written from the schema (an engine in lock step, 0.3 % of the requests cut), and the
page made by the command, in a process of its own. Chromium opens it without a screen, five times each on a desktop's and
on a phone's width.

    python benchmarks/report_page.py [--requests 1000000] [--tokens 32]
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from bench import HERE, measured, save

sys.path.insert(0, str(HERE.parent / "tests" / "analysis"))
from synthetic import (  # the captures of the tests, and as large as wanted
    MS,
    START_NS,
    file_facts,
    lock_step_batch,
    mark,
    stage_plan,
    steady_samples,
    watch,
    write_capture,
)

LOADS: Final = (64, 256, 1024, 4096)
TICK_NS: Final = 20 * MS
AT_ONCE: Final = 4096
OPENINGS: Final = 5
CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome")


def write_large_run(run_dir: Path, requests: int, tokens: int) -> None:
    """A quarter of the requests a stage, a few thousand in flight at a time, in batches as a worker writes them."""
    share = requests // len(LOADS)
    rounds = -(-share // AT_ONCE)
    round_ns = (tokens + 6) * TICK_NS
    seconds = rounds * round_ns / 1e9
    plans, marks = [], []
    for stage, load in enumerate(LOADS):
        plans.append(
            stage_plan(
                stage,
                name=f"concurrency {load}",
                load={"mode": "concurrency", "value": load},
                duration_s=seconds,
            )
        )
        marks.append(mark(stage, START_NS + round(stage * (seconds + 2) * 1e9), seconds))

    def batches() -> Iterator[tuple[pa.RecordBatch, dict[str, Any]]]:
        for stage, begun in enumerate(marks):
            for number in range(rounds):
                count = min(AT_ONCE, share - number * AT_ONCE)
                first_ns = begun["start_ns"] + number * round_ns
                batch = lock_step_batch(count, tokens, first_ns, seed=number + 1000 * stage, tick_ns=TICK_NS)
                yield (
                    numbered(batch, stage, number * AT_ONCE),
                    watch(steady_samples(first_ns, first_ns + round_ns), marks[: stage + 1]),
                )

    spec = {"model": "synthetic", "slo": {"ttft": {"limit_ms": 100.0, "percentile": 99.0}}}
    write_capture(run_dir / "capture" / "worker-00.arrow", file_facts(plans, spec=spec), batches())


def numbered(batch: pa.RecordBatch, stage: int, first: int) -> pa.RecordBatch:
    """The batch as one of its stage, with ids of its own and a failure here and there."""
    count = batch.num_rows
    ids = np.arange(first, first + count, dtype=np.uint64) | np.uint64(stage << 40)
    errors = np.where(np.arange(count) % 331 == 0, "truncated", None)
    answers = [f"chatcmpl-{number:x}" for number in ids.tolist()]
    changed = {
        "request_id": pa.array(ids),
        "stage": pa.array(np.full(count, stage, np.uint16)),
        "error": pa.array(errors, pa.string()).dictionary_encode().cast(batch.schema.field("error").type),
        "response_id": pa.array(answers),
    }
    for name, column in changed.items():
        batch = batch.set_column(batch.schema.get_field_index(name), batch.schema.field(name), column)
    return batch


def opened_ms(page: Path, width: int) -> tuple[list[int], list[int]]:
    """(until the first screen answers, until all is drawn), ms, by opening; each in a fresh context."""
    from playwright.sync_api import sync_playwright

    path = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if path is None:
        sys.exit("report_page: there is no Chromium here")
    interactive, drawn = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(OPENINGS):
            context = browser.new_context(viewport={"width": width, "height": 850})
            tab = context.new_page()
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-drawn=all]", state="attached", timeout=120_000)
            drawn.append(round(tab.evaluate("performance.now()")))
            interactive.append(int(tab.locator("html").get_attribute("data-interactive-ms") or 0))
            context.close()
        browser.close()
    return interactive, drawn


def main() -> None:
    """Write, make, open, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=32)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loadgen-bench-") as folder:
        run_dir = Path(folder, "run")
        write_large_run(run_dir, chosen.requests, chosen.tokens)
        command = [sys.executable, "-m", "loadgen", "report", str(run_dir)]
        row: dict[str, Any] = {"requests": chosen.requests, "tokens": chosen.requests * chosen.tokens}
        for name, options in (("summary_alone", ["--no-html"]), ("with_page", [])):
            started = time.perf_counter()
            cpu_s, peak_rss_mb = measured([*command, *options], cores={0, 1})
            row[name] = {
                "s": round(time.perf_counter() - started, 2),
                "cpu_s": round(cpu_s, 2),
                "peak_rss_mb": round(peak_rss_mb),
            }
        page = run_dir / "report.html"
        row["page_mb"] = round(page.stat().st_size / 1e6, 3)
        for name, width in (("desktop", 1280), ("phone", 390)):
            interactive, drawn = opened_ms(page, width)
            row[name] = {
                "interactive_ms": statistics.median(interactive),
                "interactive_worst_ms": max(interactive),
                "all_drawn_ms": statistics.median(drawn),
            }
        save("report_page", row)


if __name__ == "__main__":
    main()
