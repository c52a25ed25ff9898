"""A stage as those who watch a run are told of it."""

from loadgen.coordinator import StageNow

START = StageNow(
    stage=0,
    elapsed_s=-0.05,
    in_flight=0,
    sent=0,
    completed=0,
    failed=0,
    cancelled=0,
    offered=0,
    dropped=0,
    events=0,
    reads=0,
    decoded_reads=0,
    ttft_p50_ns=None,
    tpot_p50_ns=None,
    lag_ns=0,
    lateness_ns=0,
    cpu_ns=(0, 0),
    draining=False,
)
