"""The judge of the stamps, judged: what it must see in a capture that is wrong."""

import pyarrow as pa
import pytest

from analysis.truth import joined

MS = 1_000_000
TRUE_NS = {"a": [10 * MS, 20 * MS, 30 * MS], "b": [15 * MS, 25 * MS, 35 * MS]}


def truth(events: dict[str, list[int]] = TRUE_NS) -> pa.Table:
    return pa.table(
        {
            "response_id": list(events),
            "request_read_ns": pa.array([2 * MS] * len(events), pa.int64()),
            "event_ns": pa.array(list(events.values()), pa.list_(pa.int64())),
        }
    )


def captured(events: dict[str, list[int]], late_ns: int = 5_000) -> pa.Table:
    """What a client saw that stamps every event so much late."""
    stamps = [[event_ns + late_ns for event_ns in each] for each in events.values()]
    return pa.table(
        {
            "response_id": list(events),
            "sent_ns": pa.array([1 * MS] * len(events), pa.int64()),
            "event_ns": pa.array(stamps, pa.list_(pa.int64())),
        }
    )


def accounts(row: dict) -> tuple[int, int, int]:
    return row["unknown_requests"], row["lost_tokens"], row["invented_tokens"]


def test_a_true_capture_has_no_debts_and_the_error_that_was_put_in():
    row = joined(captured(TRUE_NS, late_ns=7_000), truth())
    assert accounts(row) == (0, 0, 0)
    assert (row["requests"], row["tokens"]) == (2, 6)
    assert row["stamp_error_us"] == {"p50": 7.0, "p99": 7.0, "p99_9": 7.0, "min": 7.0, "max": 7.0}
    assert row["ttft_error_us"]["max"] == 7.0
    assert row["ttft_p50_ms"] == pytest.approx((9 + 14) / 2 + 0.007)  # since sent
    assert row["ttft_server_p50_ms"] == pytest.approx((8 + 13) / 2)  # since read


def test_rows_are_joined_by_id_and_not_by_their_place():
    backwards = dict(reversed(TRUE_NS.items()))
    assert joined(captured(backwards), truth())["stamp_error_us"]["max"] == 5.0


def test_a_lost_token_is_seen():
    row = joined(captured(TRUE_NS | {"b": TRUE_NS["b"][:-1]}), truth())
    assert accounts(row) == (0, 1, 0)


def test_an_invented_token_is_seen():
    row = joined(captured(TRUE_NS | {"a": [*TRUE_NS["a"], 40 * MS]}), truth())
    assert accounts(row) == (0, 0, 1)


def test_a_request_that_the_server_does_not_know_is_seen():
    row = joined(captured(TRUE_NS | {"c": TRUE_NS["a"]}), truth())
    assert accounts(row) == (1, 0, 0)


def test_a_response_without_an_id_is_unknown_too():
    of_nobody = captured(TRUE_NS).set_column(0, "response_id", pa.array(["a", None]))
    assert accounts(joined(of_nobody, truth())) == (1, 0, 0)


def test_what_the_truth_log_alone_holds_is_no_debt():
    """The check of the endpoint is a request as well, and no part of the capture."""
    assert accounts(joined(captured(TRUE_NS), truth({"check": [1 * MS]} | TRUE_NS))) == (0, 0, 0)


def test_a_stamp_before_its_cause_shows_as_a_negative_error():
    assert joined(captured(TRUE_NS, late_ns=-3_000), truth())["stamp_error_us"]["min"] == -3.0
