"""The key, the prompts and the server's words: what may be written where, in every kind of run."""

import base64
import json
import stat
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from accounts import in_trouble, run_command
from asked import PATIENCE_S, children, environment, rows, typed, until
from canned import canned, refused_port, response
from hostile import EVERYTHING
from misbehaving import CHUNKED, DONE, FINISH, GOOD, LAST_CHUNK, Fault, chunk, event, misbehaving, refuse, say, sized

from loadgen.blotting import blotted

KEY = 'sk-0123456789/+"key'

FORMS = (KEY, urllib.parse.quote(KEY, safe=""), json.dumps(KEY)[1:-1], base64.b64encode(KEY.encode()).decode())


def texts(folder: Path) -> Iterator[tuple[str, str]]:
    """(where, what) for everything below a folder that can be read as text, captures unpacked."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        yield str(path), path.read_bytes().decode("utf-8", "backslashreplace")
        if path.suffix == ".arrow":
            with pa.OSFile(str(path)) as source:
                try:
                    reader = pa.ipc.open_stream(source)
                except pa.ArrowInvalid:  # it was broken off within its head
                    continue
                yield f"{path}: head", str(reader.schema.metadata)
                for batch, metadata in reader.iter_batches_with_custom_metadata():
                    yield f"{path}: batch", f"{batch.to_pylist()} {metadata}"


def assert_kept(folder: Path, *said: str) -> None:
    """Neither the key, in any form, nor a part of it that tells it from others is in any file or in what was said."""
    seen = [*texts(folder), *(("said", words) for words in said)]
    assert seen
    for where, what in seen:
        for form in (*FORMS, KEY[:9]):
            assert form not in what, where


def finished(run_id: str, reason: str) -> bytes:
    last = event(id=run_id, choices=[{"index": 0, "delta": {"content": "x"}, "finish_reason": reason}])
    return CHUNKED + chunk(last) + chunk(DONE) + LAST_CHUNK


QUOTES = {
    "in an error": refuse("401 Unauthorized", body=json.dumps({"error": {"message": f"bad key {KEY}"}}).encode()),
    "in plain words": refuse("401 Unauthorized", body=f"bad key {KEY}".encode()),
    "percent-encoded": refuse("403 Forbidden", body=urllib.parse.quote(KEY, safe="").encode()),
    "as JSON within words": refuse("403 Forbidden", body=json.dumps({"detail": [KEY, {"key": KEY}]}).encode()),
    "cut by the length of what is kept": refuse("401 Unauthorized", body=b"x" * 3_995 + KEY.encode()),
    "so often that blotting it brings the end within sight": refuse("401 No", body=(KEY.encode() + b" ") * 200),
    "in the reason phrase": refuse(f"500 {KEY}"),
    "in headers": refuse("500 No", f"Retry-After: {KEY}", f"Location: {KEY}", f"Content-Encoding: {KEY}"),
    "as the content type": say(sized(b"x", head=f"HTTP/1.1 200 OK\r\nContent-Type: {KEY}\r\n".encode())),
    "as the encoding": say(sized(b"x", head=f"HTTP/1.1 200 OK\r\nContent-Encoding: {KEY}\r\n".encode())),
    "in an error event": say(CHUNKED + chunk(event(error={"message": KEY})) + LAST_CHUNK),
    "in an event that is none": say(CHUNKED + chunk(f"data: {KEY}\n\n".encode()) + LAST_CHUNK),
    "in the ids": say(finished(f"id-{KEY}", f"stop-{KEY}")),
    "cut in the ids": say(finished("i" * 185 + KEY, "s" * 185 + KEY)),
    "as no HTTP": say(f"{KEY}\r\n\r\n".encode()),
}


@pytest.mark.parametrize("transport", ["kernel", pytest.param("aiohttp", marks=pytest.mark.slow)])
def test_a_key_that_the_server_quotes_is_written_nowhere(transport, run, tmp_path):
    plan = [Fault(script, None) for script in QUOTES.values()]
    with misbehaving(plan) as server:
        load = ("--concurrency", 1, "--requests", len(plan), "--transport", transport, "--idle-timeout", "1s")
        done = run(server.url, *load, page=True, OPENAI_API_KEY=KEY)
        assert all(f"Bearer {KEY}".encode() in request for request in server.requests), "it was sent"
    assert len(done.rows) == len(plan)
    reported = typed("report", done.run_dir)
    assert_kept(tmp_path, done.said, done.complained, reported.stdout, reported.stderr)


SAID = (
    "in an error",
    "percent-encoded",
    "so often that blotting it brings the end within sight",
    "in an event that is none",
)


@pytest.mark.parametrize("name", SAID)
def test_a_run_that_fails_with_the_keys_own_words_does_not_say_it(name, run, tmp_path):
    with misbehaving([Fault(QUOTES[name], None)] * 9) as server:
        load = ("--concurrency", 1, "--requests", 2, "--idle-timeout", "1s", "--first-byte-timeout", "1s")
        done = run(server.url, *load, page=True, OPENAI_API_KEY=KEY)
        checked = typed("run", "--url", server.url, "--out", tmp_path / "no", "--model", "m", OPENAI_API_KEY=KEY)
    assert (done.status, checked.returncode) == (1, 1)
    assert_kept(tmp_path, done.said, done.complained, checked.stdout, checked.stderr)


def test_a_model_that_is_called_as_the_key_is_refused(tmp_path):
    with canned(response(json.dumps({"data": [{"id": f"m-{KEY}"}]}).encode(), "application/json")) as server:
        done = typed("run", "--url", server.url, "--out", tmp_path / "run", OPENAI_API_KEY=KEY)
    assert done.returncode == 1
    assert "quotes the API key" in done.stderr
    assert_kept(tmp_path, done.stdout, done.stderr)


@pytest.mark.parametrize("trouble", ["quoting-error", "segfault", "file-size:1", "read-only:30"])
def test_a_worker_that_crashes_leaves_no_key_behind(trouble, tmp_path):
    with misbehaving([]) as server:
        ended = subprocess.run(
            [*run_command(server.url, "run"), "--duration", "3s"],
            env=environment(OPENAI_API_KEY=KEY, **in_trouble(trouble)),
            cwd=tmp_path,  # where a core would be written
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert ended.returncode == 1
    assert "ended in mid-run" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not [path.name for path in tmp_path.iterdir() if path.name != "run"]
    assert_kept(tmp_path, ended.stdout, ended.stderr)


@pytest.mark.parametrize("url", [None, "http://no-such-host.invalid", "http://127.0.0.1:8000/v1?x=1", "ftp://h"])
def test_a_run_that_is_refused_does_not_say_the_key(url, tmp_path):
    url = url or f"http://127.0.0.1:{refused_port()}"
    done = typed("run", "--url", url, "--model", "m", "--out", tmp_path / "run", OPENAI_API_KEY=KEY)
    assert done.returncode in (1, 2)
    assert_kept(tmp_path, done.stdout, done.stderr)


def test_no_process_shows_the_key_but_the_one_that_was_given_it(tmp_path):
    with (
        misbehaving([]) as server,
        subprocess.Popen(
            [*run_command(server.url, tmp_path / "run"), "--duration", "1h", "--workers", "1"],
            env=environment(OPENAI_API_KEY=KEY, ALSO=f"Bearer {KEY}", HARMLESS="stays"),
            stdout=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            until(lambda: len(rows(tmp_path / "run")) > 2, "some requests")
            (worker,) = children(process.pid)
            shown = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (process.pid, worker)]
            shown.append(Path(f"/proc/{worker}/environ").read_bytes())
            assert b"HARMLESS=stays" in shown[-1]
            for pid in (process.pid, worker):
                limits = Path(f"/proc/{pid}/limits").read_text()
                assert next(line for line in limits.splitlines() if "core" in line).split()[4] == "0"
        finally:
            process.kill()
    for what in shown:
        assert KEY.encode() not in what


# prompts and bodies


def test_prompts_and_answers_are_written_nowhere_by_default(run, tmp_path):
    with misbehaving([]) as server:
        done = run(server.url, "--concurrency", 2, "--requests", 6, page=True)
        bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in server.requests]
    prompts = [body["messages"][-1]["content"] for body in bodies]
    assert len(set(prompts)) == 6
    for where, what in texts(tmp_path):
        for prompt in prompts:
            assert prompt[:30] not in what, where
        assert "word0" not in what, where
    assert "bodies" not in {path.name for path in done.run_dir.iterdir()}


def test_saved_bodies_are_for_their_owner_alone_and_hold_no_key(run, tmp_path):
    quoting = Fault(refuse("401 No", body=f"bad key {KEY}".encode()), None)
    with misbehaving([GOOD, quoting, GOOD]) as server:
        done = run(server.url, "--concurrency", 1, "--requests", 3, "--save-bodies", page=True, OPENAI_API_KEY=KEY)
        prompts = [
            json.loads(request.partition(b"\r\n\r\n")[2])["messages"][-1]["content"] for request in server.requests
        ]
    (path,) = (done.run_dir / "bodies").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    saved = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["request_id"], row["error"], row["status"], row["is_cut"]) for row in saved] == [
        (0, None, 200, False),
        (1, "http-401", 401, False),
        (2, None, 200, False),
    ]
    assert [json.loads(row["request"])["messages"][-1]["content"] for row in saved] == prompts
    assert saved[0]["response"].startswith('data: {"id": "c1"')
    assert saved[0]["response"].endswith("data: [DONE]\n\n")
    assert saved[1]["response"] == "bad key ***"
    assert "bodies/" in done.said
    assert "0600" in done.said
    assert json.loads((done.run_dir / "run.json").read_bytes())["spec"]["save_bodies"] is True
    assert_kept(tmp_path, done.said, done.complained)


# words that a terminal would act upon

ACTED_UPON = {chr(code) for code in (*range(32), *range(0x7F, 0xA0), 0x202E, 0x202C)} - {"\n"}


def test_hostile_words_are_shown_and_not_acted_upon(run, tmp_path):
    body = json.dumps({"error": {"message": EVERYTHING}}).encode()
    with misbehaving([Fault(refuse("500 No", body=body), None)] * 99) as server:
        done = run(server.url, "--concurrency", 1, "--requests", 30, page=True)
        checked = typed("run", "--url", server.url, "--out", tmp_path / "no", "--model", "m")
    reported, as_json = typed("report", done.run_dir), typed("report", done.run_dir, "--json")
    for said in (done.said, done.complained, checked.stderr, reported.stdout, reported.stderr, as_json.stdout):
        assert not set(said) & ACTED_UPON
    assert "[bold red]markup[/bold red]" in reported.stdout.replace("\n", ""), "markup is shown, not obeyed"
    assert json.loads(as_json.stdout)["ended"]["words"].startswith("http-500: ")


def test_a_model_with_a_hostile_name_is_shown_and_not_acted_upon(tmp_path):
    models = json.dumps({"data": [{"id": f"m{EVERYTHING}"}]}).encode()

    def answer(request: bytes) -> bytes:
        if request.startswith(b"GET"):
            return response(models, "application/json")
        return response(event(id=EVERYTHING, choices=[{"index": 0, "delta": {"content": EVERYTHING}}]) + FINISH + DONE)

    with canned(answer) as server:
        done = typed("run", "--url", server.url, "--out", tmp_path / "run", "--requests", 2, "--workers", 1)
    assert done.returncode == 0, done
    for said in (done.stdout, done.stderr, typed("report", tmp_path / "run").stdout):
        assert not set(said) & ACTED_UPON


# the function


def test_whole_and_cut_secrets_are_blotted_in_every_form():
    assert blotted(f"a {KEY} b", [KEY]) == "a *** b"
    assert blotted(" ".join(FORMS[:3]), [KEY]) == "*** *** ***"
    for length in range(4, len(KEY)):
        assert blotted(f"key {KEY[:length]}", [KEY]) == "key ***"
    assert blotted("key sk-", [KEY]) == "key sk-", "three characters could be anything"
    assert blotted("EMPTY x", ["x"]) == "EMPTY x", "a placeholder is no secret"
    assert blotted(f"{KEY}pw", [KEY, "", "password"]) == "***pw"
