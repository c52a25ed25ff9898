"""What goes wrong before and between requests: refusals, names, TLS, redirects, a server that restarts, storms of 429."""

import contextlib
import signal
import socket
import ssl
import threading
from collections import Counter

import pytest
from asked import PATIENCE_S, complaints, rows, typed, until
from canned import GOOD, canned, free_port, refused_port, response
from misbehaving import FAULTS, Fault, misbehaving, refuse
from test_own_failures import reasons, running

from loadgen.simulator.process import serve

SHORT = ("--workers", "1", "--output-tokens", "8")
FEW = ("--concurrency", "1", "--requests", "6")


def failed_alike(done, error: str, words: str, count: int = 6) -> None:
    """Every request failed in this class, the run ended by itself, and the command says why."""
    assert done.status == 1
    assert [row["error"] for row in done.rows] == [error] * count
    (complaint,) = complaints(done.complained)
    assert complaint.startswith(f"loadgen: {error}: ")
    assert words in complaint
    assert "nothing-completed" in reasons(done.summary)


@pytest.mark.parametrize("transport", ["kernel", "aiohttp"])
def test_a_port_where_nobody_listens(transport, run):
    done = run(f"http://127.0.0.1:{refused_port()}", *FEW, "--transport", transport)
    failed_alike(done, "connect-refused", "connection refused")
    assert {row["connect_ns"] for row in done.rows} == {None}


@pytest.mark.parametrize("transport", ["kernel", "aiohttp"])
def test_a_name_that_nobody_knows(transport, run):
    failed_alike(run("http://no-such-host.invalid", *FEW, "--transport", transport), "dns", "no-such-host.invalid")


TLS = {
    "expired": ("tls-certificate", "certificate has expired"),
    "another host": ("tls-certificate", "IP address mismatch"),
    "nobody vouches for it": ("tls-certificate", "unable to get local issuer"),
}


@pytest.mark.parametrize("which", TLS)
def test_a_server_whose_tls_is_wrong(which, authority, run):
    error, words = TLS[which]
    context: ssl.SSLContext | None = {
        "expired": lambda: authority.server_context("127.0.0.1", expired=True),
        "another host": lambda: authority.server_context("127.0.0.2"),
        "nobody vouches for it": lambda: authority.server_context("127.0.0.1"),
    }[which]()
    trusted = [] if which == "nobody vouches for it" else ["--tls-ca", authority.ca_file]
    with canned(response(GOOD), context) as server:
        done = run(f"https://127.0.0.1:{server.port}/v1", *FEW, *trusted, OPENAI_API_KEY="sk-0123456789")
        assert not server.requests, "nothing was sent, least of all the key"
    failed_alike(done, error, words)


def test_a_tls_port_that_speaks_plain_http(run):
    def answer_in_plain() -> None:
        with contextlib.suppress(OSError):  # shut down below
            while True:
                sock, _ = listening.accept()
                with sock:
                    sock.recv(1000)
                    sock.sendall(response(b"", "", "400 Bad Request"))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer_in_plain)
        thread.start()
        done = run(f"https://127.0.0.1:{listening.getsockname()[1]}/v1", *FEW)
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    failed_alike(done, "tls", "does not speak TLS on this port (try http://)")


@pytest.mark.parametrize("over_tls", [False, True])
def test_a_server_that_speaks_http2_alone_is_named_by_the_run_and_by_the_check(over_tls, authority, run, tmp_path):
    settings = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64" + bytes(17)
    context = authority.server_context("127.0.0.1") if over_tls else None
    with canned(settings, context) as server:
        url = f"{'https' if over_tls else 'http'}://127.0.0.1:{server.port}/v1"
        trusted = ["--tls-ca", authority.ca_file] if over_tls else []
        failed_alike(
            run(url, *FEW, *trusted), "bad-http", "the server speaks HTTP/2 alone; this client speaks HTTP/1.1"
        )
        checked = typed("run", "--url", url, "--model", "sim", "--out", tmp_path / "no", *trusted)
    assert checked.returncode == 1
    assert "HTTP/2" in checked.stderr


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_not_followed_and_the_key_stays(status, run):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        port = elsewhere.getsockname()[1]
        moved = response(b"", "", status, f"Location: http://127.0.0.1:{port}/v1/chat/completions")
        with canned(moved) as server:
            done = run(server.url, *FEW, OPENAI_API_KEY="sk-0123456789")
        elsewhere.setblocking(False)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    assert [row["error"] for row in done.rows] == [f"http-{status[:3]}"] * 6


def behind_the_refusals(run_dir):
    """The rows of the requests that were sent when the last one had been refused."""
    told = rows(run_dir)
    refused_ns = max((row["ended_ns"] for row in told if row["error"] == "connect-refused"), default=1 << 62)
    return [row for row in told if row["sent_ns"] > refused_ns]


def test_a_server_that_restarts_costs_what_was_in_flight_and_the_run_goes_on(run_dir):
    port = str(free_port())
    load = ("--concurrency", 4, "--duration", "1h", "--warmup", "0s")
    with (
        serve("--step", "5ms", "--ttft", "5ms", "--port", port) as first,
        running(first.url, run_dir, *load, *SHORT) as process,
    ):
        until(lambda: len(rows(run_dir)) > 20, "some requests")
        first.kill()
        until(lambda: any(row["error"] == "connect-refused" for row in rows(run_dir)), "refusals")
        with serve("--step", "1ms", "--port", port):
            until(lambda: sum(row["error"] is None for row in behind_the_refusals(run_dir)) > 200, "answers again")
            process.send_signal(signal.SIGINT)
            said, complained = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, complaints(complained)) == (130, [])
    told = rows(run_dir)
    assert sorted(row["request_id"] for row in told) == list(range(len(told)))
    classes = Counter(row["error"] for row in told)
    assert classes.keys() <= {None, "truncated", "connect-reset", "connect-refused"}
    assert {row["error"] for row in behind_the_refusals(run_dir)} == {None}, "behind the restart all is well again"
    assert classes["truncated"] + classes["connect-reset"] <= 8, "what was in flight, and what still got a connection"
    assert "suspect" in said


def test_a_storm_of_429_is_retried_as_asked_and_every_refusal_is_counted(run):
    storm = refuse("429 Too Many Requests", "Retry-After: 0")
    seen: dict[int, int] = {}
    lock = threading.Lock()

    def refuse_twice(number: int) -> Fault:
        def script(peer) -> None:
            with lock:
                seen[number] = seen.get(number, 0) + 1
                is_refused = seen[number] <= 2
            (storm if is_refused else FAULTS["interim responses"].script)(peer)

        return Fault(script, None)

    n = 40
    with misbehaving([refuse_twice(number) for number in range(n)]) as server:
        done = run(server.url, "--concurrency", 8, "--requests", n, "--retry", 2)
    assert done.status == 0
    assert [(row["error"], row["retries"]) for row in done.rows] == [(None, 2)] * n
    assert list(seen.values()) == [3] * n
    assert "retried" in reasons(done.summary)


def test_a_storm_of_429_without_an_end_ends_the_run(run):
    with misbehaving([FAULTS["429"]] * 10_000) as server:
        done = run(server.url, "--concurrency", 8, "--requests", 10_000)
    assert done.status == 1
    assert complaints(done.complained)[0].startswith("loadgen: http-429: ")
    assert {row["error"] for row in done.rows} <= {"http-429", "unfinished"}
    assert len(done.rows) < 10_000
