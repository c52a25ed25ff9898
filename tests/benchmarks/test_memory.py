"""What the benchmark of the memory concludes from samples that are known."""

import os
import subprocess
import sys

import numpy as np
import pytest
from memory import figures_of, slope
from processes import Sample, look_at, workers_below

from loadgen.clock import NS_PER_S


def samples(mb_per_s: float, noise_mb: float = 0.5, seconds: int = 100) -> list[Sample]:
    noise = np.random.default_rng(1).normal(0, noise_mb, 2 * seconds)
    return [Sample(i * NS_PER_S // 2, 1, 90 + mb_per_s * i / 2 + noise[i], 99.0, 216) for i in range(2 * seconds)]


def test_the_slope_of_a_line_is_exact_and_without_error():
    t_s = np.arange(100.0)
    assert slope(t_s, 5 + 0.25 * t_s) == pytest.approx((0.25, 0), abs=1e-9)


def test_a_leak_is_told_from_noise():
    leaking = figures_of(samples(0.05), tokens_per_s=40_000)
    assert leaking["grows"]
    assert leaking["slope_mb_per_hour"] == pytest.approx(180, abs=2 * leaking["error_mb_per_hour"])
    assert leaking["bytes_per_token"] == pytest.approx(0.05 * 2**20 / 40_000, rel=0.2)
    assert not figures_of(samples(0.0), tokens_per_s=40_000)["grows"]


def test_growth_in_the_first_half_is_left_out():
    filling = [
        Sample(s.t_ns, s.pid, s.rss_mb + min(i, 80), s.peak_rss_mb, s.descriptors) for i, s in enumerate(samples(0.0))
    ]
    assert not figures_of(filling, tokens_per_s=40_000)["grows"]


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc here")
def test_a_process_is_seen_while_it_lives():
    seen = look_at(os.getpid())
    assert seen is not None
    assert 0 < seen.rss_mb <= seen.peak_rss_mb + 1
    assert seen.descriptors > 2
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert look_at(ended.pid) is None
    assert workers_below(os.getpid()) == []
