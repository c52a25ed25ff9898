"""What the engine's state looks like to a scraper: Prometheus text, in the names of vLLM or SGLang.

Gauges and token counters are the state at the moment of the scrape. A histogram takes a request in when it has ended, its
time to first token at the first token. All latencies are the server's own: from the moment at which the request was read.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from loadgen.clock import NS_PER_S
from loadgen.simulator.engine import State

if TYPE_CHECKING:
    from array import array

    from loadgen.simulator.engine import Engine, Sequence

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# The bounds of vLLM's histograms, in seconds.
FIRST_TOKEN_S: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)  # fmt: skip
TOKEN_S: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST_S: Final = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0,
    7680.0,
)  # fmt: skip

# Requests are counted many at a time, which costs a tenth.
GATHERED_REQUESTS: Final = 256


class Histogram:
    """Counts of seconds by upper bound, and their sum."""

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        self.sum_s = 0.0

    def take(self, value_s: float) -> None:
        self.counts[bisect_left(self.bounds_s, value_s)] += 1
        self.sum_s += value_s

    def take_all(self, values_s: "np.ndarray[Any, np.dtype[np.float64]]") -> None:
        found = np.bincount(np.searchsorted(self.bounds_s, values_s), minlength=len(self.counts))
        self.counts = [before + int(more) for before, more in zip(self.counts, found, strict=True)]
        self.sum_s += float(values_s.sum())


class Ended(NamedTuple):
    """A request as it ends; `finish` is one of vLLM's reasons: stop, length, abort."""

    arrived_ns: int
    admitted_ns: int
    event_ns: "array[int]"
    output_tokens: int
    finish: str


class Tally:
    """Everything that is counted over the server's life."""

    def __init__(self) -> None:
        self.started_s = time.time()
        self.prompt_tokens = 0
        self.output_tokens = 0
        """Of the requests that have ended and been counted."""
        self.events = 0
        self.finished = {"stop": 0, "length": 0, "abort": 0}
        self.first_token = Histogram(FIRST_TOKEN_S)
        self.gap = Histogram(TOKEN_S)
        self.token = Histogram(TOKEN_S)
        self.request = Histogram(REQUEST_S)
        self.queue = Histogram(REQUEST_S)
        self.prefill = Histogram(REQUEST_S)
        self.decode = Histogram(REQUEST_S)
        self._gathered: list[Ended] = []

    def begun(self, prompt_tokens: int, waited_ns: int) -> None:
        """A request's first token, `waited_ns` after it was read."""
        self.prompt_tokens += prompt_tokens
        self.first_token.take(waited_ns / NS_PER_S)

    def ended(self, told: Ended) -> None:
        """A request that was admitted has ended, in whatever way."""
        self._gathered.append(told)
        if len(self._gathered) >= GATHERED_REQUESTS:
            self.catch_up()

    def catch_up(self) -> None:
        """Count the requests that were gathered."""
        gathered, self._gathered = self._gathered, []
        for told in gathered:
            self.output_tokens += told.output_tokens
            self.events += len(told.event_ns) if told.output_tokens else 0  # vectors are no step of decoding
            self.finished[told.finish] += 1
        _take(self.queue, [told.admitted_ns - told.arrived_ns for told in gathered])
        spoke = [told for told in gathered if told.event_ns]
        _take(self.prefill, [told.event_ns[0] - told.admitted_ns for told in spoke])
        _take(self.decode, [told.event_ns[-1] - told.event_ns[0] for told in spoke])
        _take(self.request, [told.event_ns[-1] - told.arrived_ns for told in spoke])
        several = [told for told in spoke if told.output_tokens > 1]
        _take(self.token, [(told.event_ns[-1] - told.event_ns[0]) / (told.output_tokens - 1) for told in several])
        stamps_ns = [np.frombuffer(told.event_ns, dtype=np.int64) for told in spoke]
        _take(self.gap, np.concatenate([stamps[1:] - stamps[:-1] for stamps in stamps_ns]) if stamps_ns else [])


def _take(histogram: Histogram, values_ns: "list[int] | list[float] | np.ndarray[Any, Any]") -> None:
    if len(values_ns):
        histogram.take_all(np.asarray(values_ns, dtype=np.float64) / NS_PER_S)


class Metric(NamedTuple):
    """A family of the exposition: its samples are (suffix, labels, value)."""

    name: str
    kind: str
    samples: list[tuple[str, str, float]]


def exposition(
    preset: str, model: str, tally: Tally, engine: "Engine[Any]", live: "Iterable[Sequence]", kv_tokens: int
) -> bytes:
    """The text in the names of `preset` ("vllm" or "sglang"); `live` are the sequences that have not ended."""
    tally.catch_up()
    held = [s for s in live if s.state in (State.PREFILL, State.DECODE)]
    used = sum(s.prompt_tokens + s.tokens_done for s in held)
    output_tokens = tally.output_tokens + sum(s.tokens_done for s in held)
    escaped = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    families = _vllm if preset == "vllm" else _sglang
    labels = f'engine="0",model_name="{escaped}"' if preset == "vllm" else _SGLANG_LABELS + f',model_name="{escaped}"'
    lines = []
    for metric in families(tally, engine, min(used, kv_tokens), kv_tokens, output_tokens):
        name = metric.name + ("_total" if metric.kind == "counter" else "")
        lines.append(f"# HELP {name} {metric.name.partition(':')[2].replace('_', ' ')}.")
        lines.append(f"# TYPE {name} {metric.kind}")
        for suffix, more, value in metric.samples:
            lines.append(f"{metric.name}{suffix}{{{labels}{more}}} {value!r}")
    lines.append("# TYPE process_start_time_seconds gauge")
    lines.append(f"process_start_time_seconds {tally.started_s!r}")
    return ("\n".join(lines) + "\n").encode()


_SGLANG_LABELS: Final = 'engine_type="unified",tp_rank="0",pp_rank="0"'


def _gauge(name: str, value: float) -> Metric:
    return Metric(name, "gauge", [("", "", float(value))])


def _counter(name: str, value: float) -> Metric:
    return Metric(name, "counter", [("_total", "", float(value))])


def _histogram(name: str, histogram: Histogram) -> Metric:
    samples, below = [], 0
    for bound, count in zip([*histogram.bounds_s, "+Inf"], histogram.counts, strict=True):
        below += count
        samples.append(("_bucket", f',le="{bound}"', float(below)))
    samples += [("_count", "", float(below)), ("_sum", "", histogram.sum_s)]
    return Metric(name, "histogram", samples)


def _hits(engine: "Engine[Any]") -> tuple[int, int]:
    cache = engine.prefix_cache
    return (cache.queried_tokens, cache.hit_tokens) if cache is not None else (0, 0)


def _vllm(tally: Tally, engine: "Engine[Any]", used: int, kv_tokens: int, output_tokens: int) -> Iterator[Metric]:
    queried, hit = _hits(engine)
    yield _gauge("vllm:num_requests_running", engine.running)
    yield _gauge("vllm:num_requests_waiting", engine.queued)
    yield _gauge("vllm:kv_cache_usage_perc", used / kv_tokens)
    yield _counter("vllm:prefix_cache_queries", queried)
    yield _counter("vllm:prefix_cache_hits", hit)
    yield _counter("vllm:num_preemptions", 0)
    yield _counter("vllm:prompt_tokens", tally.prompt_tokens)
    yield _counter("vllm:prompt_tokens_cached", hit)
    yield _counter("vllm:generation_tokens", output_tokens)
    reasons = [("_total", f',finished_reason="{reason}"', float(n)) for reason, n in tally.finished.items()]
    yield Metric("vllm:request_success", "counter", reasons)
    if engine.parameters.tokens_per_event > 1:
        draft = engine.parameters.tokens_per_event - 1
        yield _counter("vllm:spec_decode_num_drafts", tally.events)
        yield _counter("vllm:spec_decode_num_draft_tokens", tally.events * draft)
        yield _counter("vllm:spec_decode_num_accepted_tokens", max(0, tally.output_tokens - tally.events))
    yield _histogram("vllm:time_to_first_token_seconds", tally.first_token)
    yield _histogram("vllm:inter_token_latency_seconds", tally.gap)
    yield _histogram("vllm:request_time_per_output_token_seconds", tally.token)
    yield _histogram("vllm:e2e_request_latency_seconds", tally.request)
    yield _histogram("vllm:request_queue_time_seconds", tally.queue)
    yield _histogram("vllm:request_prefill_time_seconds", tally.prefill)
    yield _histogram("vllm:request_decode_time_seconds", tally.decode)
    block = {
        "block_size": 16,
        "num_gpu_blocks": kv_tokens // 16,
        "enable_prefix_caching": engine.prefix_cache is not None,
    }
    told = "".join(f',{name}="{value}"' for name, value in block.items())
    yield Metric("vllm:cache_config_info", "gauge", [("", told, 1.0)])


def _sglang(tally: Tally, engine: "Engine[Any]", used: int, kv_tokens: int, output_tokens: int) -> Iterator[Metric]:
    queried, hit = _hits(engine)
    yield _gauge("sglang:num_running_reqs", engine.running)
    yield _gauge("sglang:num_queue_reqs", engine.queued)
    yield _gauge("sglang:token_usage", used / kv_tokens)
    yield _gauge("sglang:kv_used_tokens", used)
    yield _gauge("sglang:kv_available_tokens", kv_tokens - used)
    yield _gauge("sglang:max_total_num_tokens", kv_tokens)
    yield _gauge("sglang:cache_hit_rate", hit / queried if queried else 0.0)
    yield _counter("sglang:cached_tokens", hit)
    yield _counter("sglang:prompt_tokens", tally.prompt_tokens)
    yield _counter("sglang:generation_tokens", output_tokens)
    yield _counter("sglang:num_requests", sum(tally.finished.values()))
    yield _counter("sglang:num_aborted_requests", tally.finished["abort"])
    yield _gauge("sglang:num_retracted_reqs", 0)
    if engine.parameters.tokens_per_event > 1:
        yield _gauge("sglang:spec_accept_length", tally.output_tokens / tally.events if tally.events else 0.0)
    yield _histogram("sglang:time_to_first_token_seconds", tally.first_token)
    yield _histogram("sglang:inter_token_latency_seconds", tally.gap)
    yield _histogram("sglang:request_time_per_output_token_seconds", tally.token)
    yield _histogram("sglang:e2e_request_latency_seconds", tally.request)
    yield _histogram("sglang:queue_time_seconds", tally.queue)
