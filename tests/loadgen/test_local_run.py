import datetime
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from asked import spec
from hypothesis import given
from hypothesis import strategies as st

from loadgen import host, local_run, planner
from loadgen.dialects.credentials import NOBODY, Credentials
from loadgen.errors import RunError, UsageError
from loadgen.local_run import Run, check_descriptors, check_directory, choose_cores, choose_transport, create_directory


@pytest.mark.parametrize(
    ("workers", "cpus", "usable", "in_flight", "cores"),
    [
        (None, None, [0], 8, [0]),
        (None, None, [0, 1], 8, [0, 1]),
        (None, None, [0, 1, 2, 3], 8, [1, 2, 3]),  # a core is left for the coordinator
        (None, None, [4, 6, 8], 8, [6, 8]),
        (None, None, [0, 1, 2, 3], 1, [1]),  # nobody without work
        (None, None, [0, 1, 2, 3], 2, [1, 2]),
        (None, None, [0, 1, 2, 3], None, [1, 2, 3]),  # an open loop without a limit
        (3, (1, 1, 0), [0, 1], 8, [1, 1, 0]),  # several on one core, if that is what is asked for
        (None, (3, 1), [0, 1, 2, 3], 8, [3, 1]),
        (2, None, [0, 1, 2, 3], 8, [2, 3]),
        (4, None, [0, 1, 2, 3], 8, [0, 1, 2, 3]),
        (1, (0, 2), [0, 1, 2, 3], 8, [2]),
        (3, None, [0, 1, 2], 1, [0, 1, 2]),
    ],
)
def test_workers_get_cores_of_their_own(workers, cpus, usable, in_flight, cores):
    assert choose_cores(workers, cpus, usable, in_flight) == cores


@pytest.mark.parametrize(
    ("quota", "cores"), [(None, [1, 2, 3]), (0.5, [1]), (1.0, [1]), (2.9, [1, 2]), (3.0, [1, 2]), (8.0, [1, 2, 3])]
)
def test_a_cpu_quota_is_honoured_where_nobody_asks_for_more(quota, cores):
    assert choose_cores(None, None, [0, 1, 2, 3], None, quota) == cores
    assert choose_cores(4, None, [0, 1, 2, 3], None, quota) == [0, 1, 2, 3], "a wish is a wish"
    assert choose_cores(None, (2, 3), [0, 1, 2, 3], None, quota) == [2, 3]


@pytest.mark.parametrize(
    ("workers", "cpus", "words"),
    [
        (3, None, "--workers: 3 workers need as many cores, and there are 2 (0,1)"),
        (2, (1,), "--workers: 2 workers need as many cores, and there are 1 (1)"),
        (None, (0, 7), "--cpus: CPU 7 cannot be used here; allowed is 0,1"),
    ],
)
def test_cores_that_are_not_there_are_refused(workers, cpus, words):
    with pytest.raises(UsageError) as caught:
        choose_cores(workers, cpus, [0, 1], 8)
    assert str(caught.value).startswith(words)


@given(
    st.one_of(st.none(), st.integers(1, 20)),
    st.lists(st.integers(0, 63), min_size=1, max_size=20, unique=True).map(sorted),
    st.one_of(st.none(), st.integers(1, 100)),
)
def test_no_core_is_given_twice_and_none_that_is_not_there(workers, usable, in_flight):
    try:
        cores = choose_cores(workers, None, usable, in_flight)
    except UsageError:
        assert workers is not None
        assert workers > len(usable)
        return
    assert cores
    assert len(set(cores)) == len(cores)
    assert set(cores) <= set(usable)
    assert len(cores) == workers or (workers is None and len(cores) <= (in_flight or 99))


@pytest.mark.parametrize(
    ("transport", "proxy", "platform", "chosen"),
    [
        ("auto", None, "linux", "kernel"),
        ("auto", "http://p:1", "linux", "aiohttp"),
        ("auto", None, "darwin", "aiohttp"),
        ("aiohttp", None, "linux", "aiohttp"),
        ("kernel", None, "linux", "kernel"),
    ],
)
def test_the_transport_is_the_kernels_where_it_can_be(transport, proxy, platform, chosen, monkeypatch):
    monkeypatch.setattr(local_run.sys, "platform", platform)
    assert choose_transport(spec(transport=transport, proxy=proxy)) == chosen


def test_a_kernel_transport_that_cannot_be_had_is_refused(monkeypatch):
    monkeypatch.setattr(local_run.sys, "platform", "darwin")
    with pytest.raises(UsageError, match=r"^--transport: kernel needs 64-bit Linux; allowed here is aiohttp or auto"):
        choose_transport(spec(transport="kernel"))


def test_more_connections_than_descriptors_are_refused_before_they_are_opened(monkeypatch):
    monkeypatch.setattr(host, "descriptor_limit", lambda: 1024)
    check_descriptors(1024 - host.SPARE_DESCRIPTORS, 1)
    check_descriptors(1800, 2)
    check_descriptors(None, 1)
    with pytest.raises(
        UsageError, match=r"^--concurrency, --max-in-flight: 1800 on 1 worker\(s\) needs 1864 descriptors .* is 1024"
    ):
        check_descriptors(1800, 1)


def test_a_worker_without_a_place_is_not_started(monkeypatch):
    monkeypatch.setattr(host, "usable_cores", lambda: [0, 1, 2, 3])
    asked = spec(rate=(10.0,), requests=20, max_in_flight=2)
    assert local_run.cores(asked, planner.schedules(asked)) == [1, 2]
    asked = replace(asked, workers=3)
    with pytest.raises(UsageError, match=r"^--max-in-flight: 2 are fewer than the 3 workers; allowed is at least one"):
        local_run.cores(asked, planner.schedules(asked))


def test_a_new_directory_is_made_with_all_above_it(tmp_path):
    create_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "capture").is_dir()


def test_an_empty_directory_is_taken(tmp_path):
    create_directory(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["capture"]


def test_the_current_directory_may_be_named_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    create_directory(Path("run-1"))
    assert (tmp_path / "run-1" / "capture").is_dir()


def unusable(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    full = tmp_path / "full"
    full.mkdir()
    file = full / "run.json"
    file.write_text("{}")
    return {
        "a run": (full, "already exists and is not empty; allowed is a new directory"),
        "a file": (file, "already exists"),
        "below a file": (file / "run", "cannot be written (Not a directory)"),
        "far below a file": (file / "a" / "b", "cannot be written (Not a directory)"),
        "not on a disk": (Path("/proc/run"), "cannot be written"),
        "a name too long": (tmp_path / ("x" * 300), "cannot be written (File name too long)"),
    }


@pytest.mark.parametrize(
    "which", ["a run", "a file", "below a file", "far below a file", "not on a disk", "a name too long"]
)
def test_a_directory_that_cannot_be_used_is_refused_and_left_alone(which, tmp_path):
    path, words = unusable(tmp_path)[which]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError) as caught:
        create_directory(path)
    assert str(caught.value).startswith(f"--out: {str(path)!r} ")
    assert words in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(UsageError, match="Permission denied"):
        check_directory(tmp_path / "run")


def test_checking_a_directory_makes_none(tmp_path):
    check_directory(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_name_is_called_by_its_time():
    assert local_run.default_directory(datetime.datetime(2026, 1, 31, 17, 45)) == Path("runs/20260131-174500")


def test_run_json_says_what_was_asked_where_and_how_it_ended_and_not_the_key(tmp_path):
    key = "sk-very-secret"
    job = Run(
        spec(model=None, proxy="http://user:pass-word@127.0.0.1:9", workers=1), tmp_path, credentials=[Credentials(key)]
    )
    assert not list(tmp_path.iterdir())
    create_directory(tmp_path)
    job.change(0, model="sim")
    with job.started():
        told = json.loads((tmp_path / "run.json").read_bytes())
        assert told["ended"] is None
    job.ended("failed", "words of the server")
    text = (tmp_path / "run.json").read_text()
    told = json.loads(text)
    assert told["schema"] == local_run.RUN_SCHEMA
    assert told["spec"] == replace(job.spec, proxy="http://***@127.0.0.1:9").to_json() | {
        "model": "sim",
        "transport": "aiohttp",
    }
    assert [stage["concurrency"] for stage in told["spec"]["stages"]] == [2]
    assert told["targets"] == [
        {"target": 0, "name": "sim", "weight": 1.0, "model": "sim", "api": "chat", "endpoints": [0]}
    ]
    assert told["endpoints"] == [job.spec.url]
    assert told["transport"] == "aiohttp"
    assert told["host"] == host.facts()
    assert told["workers"] == [{"worker": 0, "core": host.usable_cores()[-1]}]
    assert [stage["name"] for stage in told["stages"]] == ["concurrency 2"]
    assert told["ended"] == {"reason": "failed", "words": "words of the server"}
    assert key not in text
    assert "pass-word" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["capture", "run.json"]


def test_a_run_that_this_machine_cannot_make_is_refused_before_anything_is_called(tmp_path):
    many = len(host.usable_cores()) + 1
    for changes, field in (
        ({"workers": many}, "--workers"),
        ({"cpus": (99_999,)}, "--cpus"),
        ({"concurrency": (1 << 20,), "workers": 1}, "--concurrency, --max-in-flight"),
        ({"url": "http://127.0.0.1/v1/completions"}, "--api"),
    ):
        with pytest.raises(UsageError, match=f"^{field}:"):
            Run(spec(**changes), tmp_path / "run", credentials=[NOBODY])
    with pytest.raises(UsageError, match=r"^OPENAI_API_KEY"):
        Run(spec(), tmp_path / "run", credentials=[Credentials("line\nbreak")])
    with pytest.raises(UsageError, match=r"^--out"):
        Run(spec(), Path("/proc/self/status/run"), credentials=[NOBODY])
    assert not list(tmp_path.iterdir())


def test_a_run_json_that_cannot_be_written_is_told_by_its_path(tmp_path):
    job = Run(spec(workers=1), tmp_path / "run", credentials=[NOBODY])
    with pytest.raises(RunError, match=r"run\.json cannot be written: No such file or directory"), job.started():
        pass
