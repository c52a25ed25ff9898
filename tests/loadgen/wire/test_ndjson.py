from hypothesis import given
from hypothesis import strategies as st

from loadgen.wire import MAY_END, SPLITTERS
from loadgen.wire.ndjson import may_end_line, split_lines

LINES = st.text('{"a":1} \r\n', max_size=40).map(str.encode)


@given(stream=LINES, size=st.integers(1, 9))
def test_lines_are_the_same_wherever_the_reads_fall(stream, size):
    payloads, rest = [], b""
    for at in range(0, len(stream), size):
        new = stream[at : at + size]
        found = split_lines(rest + new)
        if not may_end_line(rest, new):
            assert found.payloads == []
        payloads += found.payloads
        rest = (rest + new)[found.consumed :]
    payloads += split_lines(rest, final=True).payloads
    assert payloads == split_lines(stream, final=True).payloads


def test_every_framing_that_splits_says_where_an_event_may_end():
    assert MAY_END.keys() == SPLITTERS.keys()
    assert not MAY_END["json"](b'{"a":', b"1}\n\n")
