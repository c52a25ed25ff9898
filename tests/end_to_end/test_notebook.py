"""The Python of the product against the simulated endpoint: results, refusals, interruptions, running event loops."""

import _thread
import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest
from asked import PATIENCE_S, environment, gone, rows, typed, until
from canned import Slackening, canned
from nbclient import NotebookClient
from sweep_run import HOSTILE, hostile

import loadgen
from loadgen.simulator.process import Served, serve

SMALL: dict[str, Any] = {"input_tokens": 20, "output_tokens": 5, "workers": 1, "cooldown": 0, "seed": 7}

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


@pytest.fixture(scope="module")
def quick() -> Iterator[Served]:
    with serve("--step", "2ms", "--ttft", "3ms") as simulator:
        yield simulator


@pytest.fixture(scope="module")
def swept(quick, tmp_path_factory):
    out = tmp_path_factory.mktemp("swept") / "run"
    return loadgen.sweep(url=quick.url, concurrency=[1, 2], requests=12, repeat=2, check_requests=2, out=out, **SMALL)


def test_a_sweep_gives_what_the_command_writes_and_prints_nothing(quick, tmp_path, capfd):
    result = loadgen.sweep(url=quick.url, concurrency=range(1, 3), requests=12, out=tmp_path / "run", **SMALL)
    assert capfd.readouterr() == ("", "")
    assert result.run_dir == tmp_path / "run"
    assert result.summary == json.loads((result.run_dir / "summary.json").read_bytes())
    assert result.summary["command"] == "sweep"
    assert [point["load"]["value"] for point in result.curve] == [1, 2]
    assert result.verdict is result.summary["verdict"]
    assert (result.saturation, result.interrupted) == (None, False)
    assert result.summary["warm_up"]["requests"] == 10
    assert typed("report", result.run_dir).returncode == 0


def test_a_run_says_what_it_does_if_it_is_asked_to(quick, tmp_path, capsys):
    loadgen.run(url=quick.url, requests=4, out=tmp_path / "run", progress=True, **SMALL)
    assert "stage 1/1 concurrency 1" in capsys.readouterr().out


def test_results_are_tables(swept):
    table = swept.to_arrow()
    assert table.column("value").to_pylist() == [1, 2]
    assert table.column("stages").to_pylist() == [2, 2]
    frame = swept.to_pandas("stages")
    assert list(frame["completed"]) == [12] * 4
    assert swept.requests(["request_id"]).num_rows == len(rows(swept.run_dir)) == 4 * 12 + 2
    with pytest.raises(loadgen.UsageError, match="rows: 'lines' is not known"):
        swept.to_arrow("lines")
    with pytest.raises(loadgen.UsageError, match="no column 'ttft'"):
        swept.requests(["ttft"])


def test_what_is_not_installed_is_said_in_a_sentence(swept, monkeypatch):
    for missing, call, words in (
        ("pandas", swept.to_pandas, "pip install pandas"),
        ("altair", swept.plot, re.escape("pip install 'loadgen[plots]'")),
    ):
        with monkeypatch.context() as patch:
            for name in [name for name in sys.modules if name.startswith(("analysis.figures", missing))]:
                patch.delitem(sys.modules, name)
            patch.delattr("analysis.figures", raising=False)
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(loadgen.UsageError, match=words):
                call()


@pytest.mark.parametrize("kind", ["latency", "latencies", "load", "percentiles", "histogram", "timeline"])
def test_a_result_draws_itself(swept, kind):
    drawn = swept.plot(kind, metric="e2e", percentile="p90").to_dict()
    assert drawn["config"]["background"] == "#ffffff"
    assert drawn["datasets"]
    assert {"E2E", "Output tokens/s"} & set(re.findall("E2E|Output tokens/s", json.dumps(drawn)))


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"kind": "pie"}, "kind: "), ({"metric": "x"}, "metric: "), ({"percentile": "p1"}, "percentile: ")],
)
def test_a_picture_that_there_is_not_is_refused(swept, asked, words):
    with pytest.raises(loadgen.UsageError, match=f"^{words}.* is not known; allowed is"):
        swept.plot(**asked)


class Elements(HTMLParser):
    """The names of all elements, their attributes, and whether each that was begun is ended."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[str] = []
        self.depth = 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.depth += 1

    def handle_endtag(self, tag):
        self.depth -= 1


def test_a_result_shows_itself_in_a_notebook(swept):
    page = swept._repr_html_()
    elements = Elements(page)
    assert elements.depth == 0
    assert elements.names.count("tr") == 1 + len(swept.curve)
    assert "of 2 repeats" in page
    assert repr(swept).startswith(f"<loadgen sweep '{swept.run_dir}': 4 stages, ")


def test_hostile_words_stay_words(tmp_path):
    page = loadgen.load(hostile(tmp_path))._repr_html_()
    assert HOSTILE not in page
    elements = Elements(page)
    assert elements.depth == 0
    assert set(elements.names) <= {
        "style",
        "div",
        "b",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "i",
        "ul",
        "li",
        "span",
    }
    assert set(elements.attributes) <= {"class", "style"}


def test_a_run_that_is_over_is_opened(swept):
    opened = loadgen.load(swept.run_dir)
    assert opened.summary == swept.summary
    with pytest.raises(loadgen.UsageError, match="is no run"):
        loadgen.load(swept.run_dir / "capture")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"concurrency": 0}, "concurrency: 0 is too small"),
        ({"requests": 3, "duration": 2}, "requests, duration_s: give one of the two"),
        ({"workers": 4096}, "workers: 4096 workers need as many cores"),
        ({"out": Path(__file__).parent}, "out: "),
        ({"spec": "/nowhere.toml"}, "spec: "),
    ],
)
def test_a_refusal_is_an_exception_in_the_words_of_python(quick, asked, words):
    with pytest.raises(loadgen.UsageError) as caught:
        loadgen.run(**{"url": quick.url} | SMALL | asked)
    assert str(caught.value).startswith(words)
    assert "--" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"mode": "speed"}, "mode: "),
        ({"budget": 1}, "budget: 1 is too short"),
        ({"start": 0}, "start: 0 is no load"),
        ({"concurrency": 3}, "concurrency: the search chooses this itself"),
        ({"think": 1}, "think: users who think are not in flight"),
    ],
)
def test_what_a_search_cannot_do_is_refused(quick, tmp_path, asked, words):
    with pytest.raises(loadgen.UsageError) as caught:
        loadgen.saturate(url=quick.url, out=tmp_path / "run", **asked)
    assert str(caught.value).startswith(words)
    assert not (tmp_path / "run").exists()


def test_an_endpoint_that_is_not_there_is_an_exception(tmp_path):
    with pytest.raises(loadgen.EndpointError, match=r"cannot connect to 127\.0\.0\.1:9") as caught:
        loadgen.run(url="http://127.0.0.1:9", model="m", out=tmp_path / "run")
    assert caught.value.error_class == "connect-refused"
    assert not (tmp_path / "run").exists()


def test_a_run_whose_requests_all_fail_says_so_and_where_its_capture_is(quick, tmp_path):
    with pytest.raises(loadgen.RunError, match="404") as caught:
        loadgen.run(url=quick.url, model="another", requests=3, check=False, out=tmp_path / "run", **SMALL)
    assert caught.value.run_dir == tmp_path / "run"
    assert loadgen.load(caught.value.run_dir).summary["stages"][0]["requests"]["failed"] == 3


def test_a_key_is_sent_and_written_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMULATED_KEY", "sk-in-no-file")
    with serve("--api-key-env", "SIMULATED_KEY", "--step", "2ms") as server:
        with pytest.raises(loadgen.EndpointError) as caught:
            loadgen.run(url=server.url, model="sim", api_key="sk-wrong-one", out=tmp_path / "wrong", **SMALL)
        assert "sk-wrong-one" not in str(caught.value)
        loadgen.run(url=server.url, requests=2, api_key="sk-in-no-file", out=tmp_path / "run", **SMALL)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"sk-in-no-file" not in path.read_bytes()


def test_an_interrupted_sweep_gives_what_there_is_and_resumes(tmp_path):
    slackening = Slackening(after=2 + 200 + 1)  # the warm-up and the first level: the second one lasts

    def interrupt():
        until(lambda: sum(1 for one in _stages(tmp_path / "run") if "outcome" in one) >= 2, "the first level")
        _thread.interrupt_main()  # what Ctrl-C does, and a notebook's stop button

    with canned(slackening) as server:
        helper = threading.Thread(target=interrupt)
        helper.start()
        asked = {"url": server.url, "model": "m", "check": False, "concurrency": [4, 1, 2], "requests": 200}
        result = loadgen.sweep(**asked, check_requests=2, out=tmp_path / "run", **SMALL)
        helper.join()
        slackening.is_over.set()
        assert result.interrupted
        assert [stage["name"] for stage in result.summary["stages"]] in (
            ["concurrency 4"],
            ["concurrency 4", "concurrency 1"],
        )
        assert "interrupted" in repr(result)
        whole = loadgen.sweep(resume=tmp_path / "run")
    assert not whole.interrupted
    assert [stage["name"] for stage in whole.summary["stages"]] == [f"concurrency {level}" for level in (4, 1, 2)]
    done = {row["request_id"] for row in rows(tmp_path / "run") if row["error"] is None and row["stage"]}
    assert len(done) == 3 * 200
    with pytest.raises(loadgen.UsageError, match=r"^seed: resume goes on with what the run asked for"):
        loadgen.sweep(resume=tmp_path / "run", seed=3)
    with pytest.raises(loadgen.UsageError, match=r"^resume: all 4 stages of .* are done"):
        loadgen.sweep(resume=tmp_path / "run")


def _stages(run_dir: Path) -> list[dict[str, Any]]:
    try:
        stages: list[dict[str, Any]] = json.loads((run_dir / "run.json").read_bytes())["stages"]
    except FileNotFoundError:
        return []
    return stages


def test_both_forms_work_under_a_running_event_loop_and_one_leaves_it_free(quick, tmp_path):
    async def both() -> int:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.01)
                beats += 1

        heart = asyncio.create_task(beat())
        try:
            result = await loadgen.run_async(url=quick.url, requests=30, out=tmp_path / "free", **SMALL)
            assert result.summary["stages"][0]["requests"]["completed"] == 30
            within = beats
            loadgen.run(url=quick.url, requests=2, out=tmp_path / "held", **SMALL)
        finally:
            heart.cancel()
        return within

    assert asyncio.run(both()) > 0


def workers_of_this_process() -> list[int]:
    """Those that any of its threads has started; a process of the tests has other children, too."""
    told = (path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    started = [int(pid) for pids in told for pid in pids.split()]
    return [pid for pid in started if b"loadgen.worker.main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_cancelled_task_stops_the_run_and_leaves_no_worker(quick, tmp_path):
    async def cancelled() -> None:
        task = asyncio.create_task(
            loadgen.sweep_async(url=quick.url, duration="60s", check_requests=0, out=tmp_path / "run", **SMALL)
        )
        while not rows(tmp_path):
            await asyncio.sleep(0.05)
        workers.update(workers_of_this_process())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    workers: set[int] = set()
    asyncio.run(cancelled())
    assert workers
    assert all(gone(pid) for pid in workers)
    assert json.loads((tmp_path / "run" / "run.json").read_bytes())["ended"]["reason"] == "interrupted"
    assert loadgen.load(tmp_path / "run").interrupted


def test_a_search_gives_its_answer(tmp_path):
    with serve("--step", "10ms", "--max-running", "4") as server:
        result = loadgen.saturate(
            url=server.url,
            budget=10,
            most=8,
            input_tokens=16,
            output_tokens=8,
            ignore_eos=True,
            workers=1,
            out=tmp_path / "run",
        )
    assert result.saturation == json.loads((tmp_path / "run" / "saturation.json").read_bytes())
    assert "meets" in result.to_arrow().column_names
    assert f"{result.saturation['load']['value']:.2f}" in result._repr_html_()


def test_importing_the_package_imports_none_of_it():
    script = (
        "import sys, loadgen; loadgen.__version__\n"
        "print([one for one in sys.modules if one.startswith('loadgen.')])\n"
        "from loadgen.errors import UsageError; print(UsageError is loadgen.UsageError)\n"
        "print(callable(loadgen.sweep), 'click' in sys.modules, 'pyarrow' in sys.modules)\n"
        "try: loadgen.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, timeout=PATIENCE_S, check=True, env=environment(),
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "[]",
        "True",
        "True False False",
        "module 'loadgen' has no attribute 'nothing'",
    ]


def test_the_example_notebook_runs(tmp_path):
    """In a real kernel, whose event loop is running; with shorter stages than the ones whose results it shows."""
    book = nbformat.read(NOTEBOOK, 4)
    shown = [cell for cell in book.cells if cell["cell_type"] == "code" and cell["source"] and cell["outputs"]]
    assert len(shown) >= 8, "it is committed with its outputs"
    assert NOTEBOOK.stat().st_size < 250_000
    for cell in book.cells:
        cell["source"] = cell["source"].replace('duration="6s"', "requests=6").replace('budget="60s"', 'budget="10s"')
    NotebookClient(book, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = json.dumps(book.cells)
    assert "tokens a prompt, 256 were asked for" in text
    assert "image/png" in text
    assert "ttft_p50_ms" in text
