"""Doubts about the client: whether it read, stamped and slept as a measuring instrument should.

What the client's own delay means depends on the stamps. With kernel stamps the time of the read moves no stamp; it only
matters when it grows to the tick of the engine, for then events pile up in a socket, one read takes several, and they share
a stamp. Without kernel stamps the delay is in every stamp, and is held against the metrics as lateness is.
"""

from typing import Final

from analysis.verdict.doubt import MOST_ERROR_SHARE, Doubt, Facts, share_of, span_of, value_of

MOST_COALESCED_SHARE: Final = 0.01
MOST_UNSTAMPED_SHARE: Final = 0.01
MOST_CPU_SHARE: Final = 0.85

CLIENT_EXHAUSTED: Final = "client-exhausted"

LATENCIES: Final = (
    "ttft_ms",
    "ttft_intended_ms",
    "ttfa_ms",
    "tpot_ms",
    "itl_ms",
    "e2e_ms",
    "e2e_intended_ms",
    "end_of_stream_ms",
)


def lag(stage: Facts) -> Doubt | None:
    """The client read late enough to be seen in the result.

    With kernel stamps: p99 of the worst lag of a request beyond the mean gap, from where on reads merge (the mean, because
    merging itself pulls the median to zero and leaves the mean alone). Without: the lag is in the stamps; p99 beyond 1 %
    of TTFT p50, or the median beyond 1 % of ITL p99. The latter pair fits because the worst of a request's hundred or so
    reads is about their p99.
    """
    client = stage["client"]
    p50_us, p99_us = value_of(client, "lag_us", "p50"), value_of(client, "lag_us", "p99")
    if p50_us is None or p99_us is None:
        return None
    gap_ms, tail_ms = value_of(stage, "itl_ms", "mean"), value_of(stage, "itl_ms", "p99")
    ttft_ms = value_of(stage, "ttft_ms", "p50")
    words = None
    # A few reads without a stamp do not make the others depend on the time of the read.
    most_unstamped = MOST_UNSTAMPED_SHARE * stage["requests"]["sent"]
    if client["stamp_source"] == "kernel" and client["unstamped_requests"] <= most_unstamped:
        if gap_ms is not None and p99_us > gap_ms * 1000:
            late, gap = span_of(p99_us), span_of(gap_ms * 1000)
            words = f"reads were {late} late (p99), longer than the mean gap ({gap}): they merge"
    elif ttft_ms is not None and p99_us > MOST_ERROR_SHARE * ttft_ms * 1000:
        share = share_of(p99_us, ttft_ms * 1000, "TTFT p50")
        words = f"reads, and with them the stamps, were {span_of(p99_us)} late (p99), {share}"
    elif tail_ms is not None and p50_us > MOST_ERROR_SHARE * tail_ms * 1000:
        share = share_of(p50_us, tail_ms * 1000, "ITL p99")
        words = f"a request's worst read, and its stamp, was {span_of(p50_us)} late (p50), {share}"
    return Doubt("lag", words, "more --workers, or --cpus that nothing else uses") if words else None


def coalesced(stage: Facts) -> Doubt | None:
    """More than 1 % of the events share a stamp with the one before."""
    share = stage["client"]["coalesced_share"]
    if share is None or share <= MOST_COALESCED_SHARE:
        return None
    return Doubt(
        "coalesced",
        f"{share:.1%} of the events came in one read with the event before and share its stamp: the client was late, "
        "or the server wrote them in one write, which cannot be told apart here",
        "if lag and CPU are low it is the server (or a proxy); else more --workers",
    )


def unstamped(stage: Facts) -> Doubt | None:
    """Kernel stamps were meant, and more than 1 % of the reads had none."""
    client = stage["client"]
    share = client["unstamped_share"]
    if client["stamp_source"] != "kernel" or share is None or share <= MOST_UNSTAMPED_SHARE:
        return None
    return Doubt(
        "unstamped", f"{share:.1%} of the reads had no kernel stamp and were stamped when read", "loadgen doctor"
    )


def busy_workers(stage: Facts) -> Doubt | None:
    """A worker had no CPU left to be on time with. One that spins is always busy, and lateness tells how it fared."""
    if stage["client"]["spin"]:
        return None
    shares = [(share, worker) for worker, share in enumerate(stage["client"]["cpu_share"]) if share is not None]
    share, place = max(shares, default=(0.0, 0))
    if share <= MOST_CPU_SHARE:
        return None
    worker = stage["by_worker"][place]["worker"]
    return Doubt("cpu", f"worker {worker} was busy {share:.0%} of the time", "more --workers, on more --cpus")


def clock_step(stage: Facts) -> Doubt | None:
    """The wall clock, which kernel stamps are made of, was set during the stage."""
    steps_ms = stage["client"]["clock_steps_ms"]
    if not steps_ms:
        return None
    worst = max(steps_ms, key=abs)
    words = f"the wall clock was set {len(steps_ms)} times during the stage, by up to {worst:+,.3f} ms"
    return Doubt(
        "clock-step", words.replace("1 times", "once"), "stop the clock's correction (chronyd, ntpd) during a run"
    )


def suspended(stage: Facts) -> Doubt | None:
    """The machine slept: its clock stood still while the endpoint's went on."""
    slept_ms = stage["client"]["suspended_ms"]
    if not slept_ms:
        return None
    return Doubt(
        "suspended",
        f"this machine was suspended for {slept_ms / 1000:,.1f} s during the stage: its clock stood still meanwhile, and "
        "the latencies lack that time",
        "keep the machine awake (systemd-inhibit, caffeinate) and run it again",
    )


def silent_workers(stage: Facts) -> Doubt | None:
    """A worker did nothing at all for a second or more."""
    silent_ms = stage["client"]["silent_ms"]
    if not silent_ms:
        return None
    worst = max(silent_ms, key=lambda worker: silent_ms[worker])
    return Doubt(
        "worker-silent",
        f"worker {worst} did nothing for {silent_ms[worst] / 1000:,.1f} s: it was stopped, swapped out, or had no CPU; what "
        "was due meanwhile was sent late, and reads merged",
        "leave the machine to the run alone (see what else it does), or fewer --workers",
    )


def client_exhausted(stage: Facts) -> Doubt | None:
    """Requests failed for want of ports or descriptors here."""
    count = stage["requests"]["errors"].get(CLIENT_EXHAUSTED, 0)
    if not count:
        return None
    return Doubt(
        "client-exhausted",
        f"{count:,} requests failed because this machine had no port, descriptor or memory left for a connection, which is "
        "not the endpoint's failure",
        "a wider net.ipv4.ip_local_port_range, a higher ulimit -n, or a lower load",
    )


def backwards(stage: Facts) -> Doubt | None:
    """A latency below zero: the stamps of cause and effect come from clocks that disagree."""
    below = [name for name in LATENCIES if (value_of(stage, name, "min") or 0) < 0]
    if not below:
        return None
    lowest_ms = min(stage[name]["min"] for name in below)
    return Doubt(
        "time-backwards",
        f"there are latencies below zero ({', '.join(below)}; the lowest {lowest_ms:,.3f} ms)",
        "loadgen doctor: the clock offset that turns kernel stamps into CLOCK_MONOTONIC is in doubt",
    )
