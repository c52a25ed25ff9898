"""What the engine does with requests that come over sockets, and how the truth log tells it."""

import itertools
import re
import struct
import time

from asked import until
from by_bytes import BODY, raw_request, read_until

from loadgen.simulator.process import serve


def test_the_truth_log_holds_what_the_client_saw(connect, rows_of):
    with serve("--step", "2ms", "--ttft", "5ms", "--tokens-per-event", "3") as served:
        client = connect(served)
        asked_ns = time.monotonic_ns()
        stream, whole = client.chat(max_tokens=8), client.chat(max_tokens=8, stream=False)
        served.stop()
        rows = rows_of(served.truth())
        row = rows[stream.events[0]["id"]]
        assert stream.texts == ["w0 w1 w2", " w3 w4 w5", " w6 w7"]
        assert (row["prompt_tokens"], row["output_tokens"], row["status"], row["ended"]) == (3, 8, 200, "complete")
        assert len(row["event_ns"]) == 3
        first, second, third = row["event_ns"]
        assert row["token_ns"] == [first] * 3 + [second] * 3 + [third] * 2
        times = [asked_ns, row["request_read_ns"], row["first_byte_ns"], first, second, third, stream.read_ns]
        assert times == sorted(times)
        assert row["request_read_ns"] <= row["admitted_ns"]
        assert first - row["admitted_ns"] >= 5_000_000
        assert (row["first_token_ns"], row["last_byte_ns"]) == (first, third)
        json_row = rows[whole.json["id"]]
        assert json_row["token_ns"] == json_row["event_ns"] * 8
        assert row["connection"] == json_row["connection"]
        assert row["deferred_writes"] == 0


def test_no_token_reaches_a_client_before_the_time_in_the_log(connect, rows_of):
    with serve(
        "--step", "1ms", "--split-writes", "--crlf", "--reasoning-tokens", "5", "--tokens-per-event", "2"
    ) as served:
        sock = connect(served).raw()
        sock.sendall(raw_request(BODY.replace(b"3,", b"60,")))
        data, read_ns = b"", []
        while not data.endswith(b"0\r\n\r\n"):
            data += sock.recv(65536)
            now_ns = time.monotonic_ns()
            # An event may be taken as whole at the CR of its blank line.
            outputs = len(re.findall(rb'content":"[^"]+"}[^\n]*\r\n\r', data))
            read_ns += [now_ns] * (outputs - len(read_ns))
        sock.close()
        served.stop()
        (row,) = served.truth().to_pylist()
    assert len(read_ns) == len(row["event_ns"]) == 31  # 30 events of two, one of which holds the end of reasoning
    assert all(sent <= read for sent, read in zip(row["event_ns"], read_ns, strict=True))


def test_in_lock_step_every_stream_gets_one_token_between_two_of_another(connect):
    with serve("--step", "3ms", "--ttft", "10ms") as served:
        clients = [connect(served) for _ in range(4)]
        for number, client in enumerate(clients):
            client.connection.request("POST", "/v1/chat/completions", BODY.replace(b"3,", b"%d," % (20 + number)))
        for client in clients:
            client.connection.getresponse().read()
        served.stop()
        streams = served.truth()["token_ns"].to_pylist()
    assert sorted(map(len, streams)) == [20, 21, 22, 23]
    # The order within a tick is that of admission, so the first to come sees each of the others once in each gap.
    first = min(streams)
    for other in streams:
        for before_ns, after_ns in itertools.pairwise(first):
            if other[0] <= before_ns and other[-1] >= after_ns:
                assert sum(before_ns < sent_ns <= after_ns for sent_ns in other) == 1


def test_requests_queue_in_their_order_behind_a_full_engine(connect, rows_of):
    with serve("--max-running", "1", "--step", "2ms") as served:
        clients = [connect(served) for _ in range(4)]
        for client in clients:
            client.connection.request("POST", "/v1/chat/completions", BODY)
        answers = [client.connection.getresponse() for client in clients]
        for answer in answers:
            answer.read()
        served.stop()
        rows = sorted(served.truth().to_pylist(), key=lambda row: row["request_read_ns"])
    assert [row["output_tokens"] for row in rows] == [3] * 4
    for before, after in itertools.pairwise(rows):
        assert after["admitted_ns"] > before["admitted_ns"]
        assert after["first_token_ns"] >= before["token_ns"][-1]


def test_a_full_queue_is_refused_with_503(connect):
    with serve("--max-running", "1", "--max-queued", "0", "--step", "10s") as served:
        busy, other = connect(served), connect(served)
        busy.connection.request("POST", "/v1/chat/completions", BODY)
        busy.connection.getresponse()
        got = other.chat()
        assert (got.status, got.json["error"]["code"], got.fields["retry-after"]) == (503, "queue_full", "1")


def test_a_client_that_goes_away_frees_its_slot_and_is_logged_with_what_was_sent(connect):
    with serve("--max-running", "1", "--step", "5ms", "--output-tokens", "1000000") as served:
        gone = connect(served).raw()
        gone.sendall(raw_request(BODY.replace(b'"max_tokens": 3, ', b"")))
        read_until(gone, b"\r\n")
        gone.close()
        assert connect(served).chat(max_tokens=2).texts == ["w0", " w1"]
        served.stop()
        rows = served.truth().to_pylist()
    assert [row["ended"] for row in rows] == ["client-closed", "complete"]
    assert rows[0]["output_tokens"] < 1000000


def test_what_is_under_way_when_the_server_stops_is_logged_as_stopped(connect):
    with serve("--step", "10s") as served:
        sock = connect(served).raw()
        sock.sendall(raw_request())
        read_until(sock, b'w0"},"logprobs":null,"finish_reason":null}]}\n\n\r\n')
        served.stop()
        (row,) = served.truth().to_pylist()
        sock.close()
    assert (row["ended"], row["output_tokens"]) == ("stopped", 1)


def test_the_log_can_be_read_while_serving_and_after_a_kill(connect):
    with serve("--step", "1ms") as served:
        name = connect(served).chat(max_tokens=2).events[0]["id"]
        until(lambda: served.truth().num_rows == 1, "the row")
        served.kill()
        assert served.truth()["response_id"].to_pylist() == [name]


def test_a_client_that_does_not_read_gets_everything_in_the_end_and_the_log_says_so(connect):
    # 10 MB are more than the buffers of both sockets take, the receiver's being small.
    with serve("--step", "100us", "--padding", "100000") as served:
        sock = connect(served).raw(receive_bytes=4096)
        sock.sendall(raw_request(BODY.replace(b"3,", b"100,")))
        other = connect(served)
        assert other.chat(max_tokens=120).texts[-1] == " w119"  # by now the first is through with its 100 steps
        data = read_until(sock, b"0\r\n\r\n")
        sock.close()
        served.stop()
        rows = served.truth().to_pylist()
    assert re.findall(rb'"content":" ?(w\d+)"', data) == [f"w{number}".encode() for number in range(100)]
    assert max(row["deferred_writes"] for row in rows) > 0


def test_a_reset_by_the_client_is_a_closed_client(connect):
    with serve("--step", "1ms", "--output-tokens", "1000000") as served:
        sock = connect(served).raw()
        sock.sendall(raw_request(BODY.replace(b'"max_tokens": 3, ', b"")))
        read_until(sock, b"\r\n")
        sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER: close sends RST
        sock.close()
        until(lambda: served.truth().num_rows, "the row")
        assert served.truth()["ended"].to_pylist() == ["client-closed"]


def test_the_tokens_of_a_step_are_told_and_logged_as_the_draft_left_them(connect, rows_of):
    usage = {"include_usage": True, "continuous_usage_stats": True}
    with serve("--step", "1ms", "--tokens-per-event", "4", "--draft-acceptance", "0.5") as served:
        got = connect(served).chat(max_tokens=60, stream_options=usage)
        served.stop()
        row = rows_of(served.truth())[got.events[0]["id"]]
    outputs = [event for event in got.events if event["choices"] and event["choices"][0]["delta"].get("content")]
    counts = [event["usage"]["completion_tokens"] for event in outputs]
    assert counts[-1] == 60
    steps = [after - before for before, after in itertools.pairwise([0, *counts])]
    assert len(set(steps)) > 1
    assert [len(text.split()) for text in got.texts] == steps
    assert [row["token_ns"].count(stamp_ns) for stamp_ns in row["event_ns"]] == steps


def test_a_prefix_that_is_cached_is_told_and_comes_sooner(connect):
    cached_times = 3  # of which one is not disturbed
    text = " ".join(f"word{number}" for number in range(1000))
    usage = {"include_usage": True}
    with serve("--prefill-rate", "2000", "--step", "1ms", "--prefix-cache", "10000") as served:
        client = connect(served)
        asked = [[{"role": "user", "content": f"{text} {end}"}] for end in range(1 + cached_times)]
        told = [client.chat(messages=messages, max_tokens=1, stream_options=usage).events[-1] for messages in asked]
        forgotten = client.request("POST", "/reset_prefix_cache", b"{}")
        told.append(client.chat(messages=asked[0], max_tokens=1, stream_options=usage).events[-1])
        served.stop()
        rows = served.truth().to_pylist()
    assert forgotten.json == {"success": True}
    cached = [event["usage"]["prompt_tokens_details"]["cached_tokens"] for event in told]
    assert cached == [row["cached_tokens"] for row in rows] == [0, *[992] * cached_times, 0]
    first_ns, *waits_ns, last_ns = (row["first_token_ns"] - row["admitted_ns"] for row in rows)
    assert min(first_ns, last_ns) >= 500_000_000
    assert 4_500_000 <= min(waits_ns) < min(first_ns, last_ns) / 2
