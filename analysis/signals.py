"""What the metrics of LLM servers mean: one signal, under the names that each server gives it.

Names are without `_total`, `_bucket`, `_sum` and `_count`. Of several names of one signal the first that a page has is
taken: the new name stands before the old one. Sources: the servers' own definitions (vLLM v1 metrics, SGLang production
metrics, TGI metrics, Triton and its TensorRT-LLM backend, llama.cpp server, DCGM field ids, Databricks serving endpoints).
"""

from typing import Final, NamedTuple

SUM, MEAN = "sum", "mean"
"""How the series of one gauge make one value: requests add up over replicas, shares do not."""


class Name(NamedTuple):
    """One name of a signal: the value times `scale`; of the series with this label alone, if there is one."""

    metric: str
    scale: float = 1.0
    label: tuple[str, str] | None = None


class Gauge(NamedTuple):
    """A state."""

    across: str
    names: tuple[Name, ...]


def _names(*metrics: str, scale: float = 1.0) -> tuple[Name, ...]:
    return tuple(Name(metric, scale) for metric in metrics)


def _trt(kind: str) -> Name:
    return Name("nv_trt_llm_request_metrics", 1.0, ("request_type", kind))


GAUGES: Final = {
    "running": Gauge(
        SUM,
        (
            *_names("vllm:num_requests_running", "sglang:num_running_reqs", "tgi_batch_current_size"),
            *_names("trtllm_num_requests_running", "llamacpp:requests_processing"),
            _trt("active"),
        ),
    ),
    "waiting": Gauge(
        SUM,
        (
            *_names("vllm:num_requests_waiting", "sglang:num_queue_reqs", "tgi_queue_size"),
            *_names("trtllm_num_requests_waiting", "llamacpp:requests_deferred"),
            _trt("waiting"),
            *_names("nv_inference_pending_request_count"),
        ),
    ),
    "kv_cache_share": Gauge(
        MEAN,
        (
            *_names("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage"),
            *_names("trtllm_kv_cache_utilization", "llamacpp:kv_cache_usage_ratio"),
            Name("nv_trt_llm_kv_cache_block_metrics", 1.0, ("kv_cache_block_type", "fraction")),
        ),
    ),
    "gpu_share": Gauge(
        MEAN,
        (
            Name("DCGM_FI_DEV_GPU_UTIL", 0.01),
            *_names("nv_gpu_utilization"),
            Name("gpu_usage_percentage", 0.01),
        ),
    ),
    "tensor_share": Gauge(MEAN, _names("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE")),
    "dram_share": Gauge(MEAN, _names("DCGM_FI_PROF_DRAM_ACTIVE")),
    "gpu_memory_used_bytes": Gauge(SUM, (Name("DCGM_FI_DEV_FB_USED", 2**20), *_names("nv_gpu_memory_used_bytes"))),
    "gpu_memory_share": Gauge(MEAN, (Name("gpu_memory_usage_percentage", 0.01),)),
    "gpu_power_w": Gauge(SUM, _names("DCGM_FI_DEV_POWER_USAGE", "nv_gpu_power_usage")),
    "gpu_temperature_c": Gauge(MEAN, _names("DCGM_FI_DEV_GPU_TEMP")),
    "sm_clock_mhz": Gauge(MEAN, _names("DCGM_FI_DEV_SM_CLOCK")),
    "cpu_share": Gauge(MEAN, (Name("cpu_usage_percentage", 0.01),)),
    "prefix_hit_share": Gauge(MEAN, _names("sglang:cache_hit_rate", "trtllm_kv_cache_hit_rate")),
    "provisioned_requests": Gauge(SUM, _names("provisioned_concurrent_requests")),
}
"""`prefix_hit_share` is of a time that the server chose; where COUNTERS tell it, they are used instead."""

COUNTERS: Final = {
    "preemptions": _names("vllm:num_preemptions", "sglang:num_retracted_requests"),
    "prompt_tokens": _names("vllm:prompt_tokens", "sglang:prompt_tokens", "llamacpp:prompt_tokens"),
    "output_tokens": _names(
        "vllm:generation_tokens", "sglang:generation_tokens", "trtllm_generation_tokens", "llamacpp:tokens_predicted"
    ),
    "requests": _names(
        "vllm:request_success", "sglang:num_requests", "tgi_request_success", "nv_inference_request_success",
        "trtllm_request_success",
    ),
    "aborted": _names("sglang:num_aborted_requests", "tgi_request_failure", "nv_inference_request_failure"),
    "rejected": _names("vllm:admission_rejections"),
    "prefix_queries": _names("vllm:prefix_cache_queries", "vllm:gpu_prefix_cache_queries"),
    "prefix_hits": _names("vllm:prefix_cache_hits", "vllm:gpu_prefix_cache_hits"),
    "cached_prompt_tokens": _names("vllm:prompt_tokens_cached", "sglang:cached_tokens", "llamacpp:prompt_tokens_cached"),
    "draft_tokens": _names("vllm:spec_decode_num_draft_tokens"),
    "accepted_draft_tokens": _names("vllm:spec_decode_num_accepted_tokens"),
    "gpu_energy_j": (Name("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 0.001), *_names("nv_energy_consumption")),
}  # fmt: skip

HISTOGRAMS: Final = {
    # in ms
    "ttft_ms": (
        *_names(
            "vllm:time_to_first_token_seconds", "sglang:time_to_first_token_seconds",
            "trtllm_time_to_first_token_seconds", scale=1e3,
        ),
        *_names("nv_inference_first_response_histogram_ms"),
    ),
    "itl_ms": _names("vllm:inter_token_latency_seconds", "sglang:inter_token_latency_seconds", scale=1e3),
    "tpot_ms": _names(
        "vllm:request_time_per_output_token_seconds", "sglang:request_time_per_output_token_seconds",
        "vllm:time_per_output_token_seconds", "sglang:time_per_output_token_seconds",
        "trtllm_time_per_output_token_seconds", scale=1e3,
    ),
    "e2e_ms": (
        *_names(
            "vllm:e2e_request_latency_seconds", "sglang:e2e_request_latency_seconds", "trtllm_e2e_request_latency_seconds",
            "tgi_request_duration", scale=1e3,
        ),
        *_names("request_latency_ms"),
    ),
    "queue_ms": (
        *_names(
            "vllm:request_queue_time_seconds", "sglang:queue_time_seconds", "trtllm_request_queue_time_seconds",
            "tgi_request_queue_duration", scale=1e3,
        ),
        *_names("model_queue_time_ms"),
    ),
    "prefill_ms": _names("vllm:request_prefill_time_seconds", scale=1e3),
    "decode_ms": _names("vllm:request_decode_time_seconds", scale=1e3),
}  # fmt: skip

SAME_ON_ALL: Final = frozenset({"tp_rank", "pp_rank", "moe_ep_rank"})
"""Labels whose series tell the same requests once more: the ranks of one replica. The largest counts."""

PRESETS: Final = (
    ("vllm:", "vLLM"),
    ("sglang:", "SGLang"),
    ("tgi_", "TGI"),
    ("nv_", "Triton"),
    ("trtllm_", "TensorRT-LLM"),
    ("llamacpp:", "llama.cpp"),
    ("DCGM_", "DCGM"),
)
"""Servers by how their metrics begin; one that has metrics and is none of these is Databricks."""

ALL_NAMES: Final = frozenset(
    name.metric
    for names in (*(gauge.names for gauge in GAUGES.values()), *COUNTERS.values(), *HISTOGRAMS.values())
    for name in names
)
