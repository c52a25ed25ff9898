import os
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from asked import PATIENCE_S, until

from loadgen.errors import RunError
from loadgen.simulator.process import serve


def refuses(url: str) -> bool:
    try:
        socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=PATIENCE_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_served_simulator_says_where_it_is_and_what_it_serves(connect):
    with serve("--model", "small", "--step", "1ms") as served:
        assert served.model == "small"
        got = connect(served).chat(model="small", max_tokens=2)
        assert got.texts == ["w0", " w1"]
        summary = served.stop()
        assert summary == served.stop() or served.stop() == ""
    assert summary.startswith("loadgen simulate: 1 requests, 2 tokens, ")


def test_it_ends_with_the_block_even_if_that_fails():
    with pytest.raises(ZeroDivisionError), serve() as served:
        1 / 0  # noqa: B018  the failure of a test
    assert refuses(served.url)


def test_it_ends_with_the_process_that_started_it():
    script = (
        "import sys; from loadgen.simulator.process import serve\nwith serve() as s: print(s.url); sys.stdin.read()"
    )
    command = [sys.executable, "-u", "-c", script]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin is not None
    assert parent.stdout is not None
    url = parent.stdout.readline().strip()
    assert not refuses(url)
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    until(lambda: refuses(url), "the simulator's end")


def test_a_wrong_option_is_told_in_its_own_words():
    with (
        pytest.raises(RunError, match="did not start: loadgen: --step: 'soon' is no duration"),
        serve("--step", "soon"),
    ):
        pass


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform cannot pin")
def test_it_is_pinned_where_that_is_asked_for():
    cpu = max(os.sched_getaffinity(0))
    with serve(cpu=cpu) as served:
        assert os.sched_getaffinity(served.pid) == {cpu}


def test_a_log_of_ones_own_stays(tmp_path, connect):
    with serve("--truth", str(tmp_path / "t.arrow"), "--step", "1ms") as served:
        connect(served).chat(max_tokens=1)
        served.stop()
    assert served.truth().num_rows == 1


def test_ctrl_c_ends_it_in_order(connect):
    with serve("--step", "1ms") as served:
        connect(served).chat(max_tokens=1)
        os.kill(served.pid, signal.SIGINT)
        assert "1 requests" in served.stop()
        assert served.truth().num_rows == 1
