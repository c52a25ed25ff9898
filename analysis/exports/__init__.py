"""A run's results as other tools read them: one module a format.

Each has `write(run_dir, out_dir, sample) -> [paths]`: it reads the capture anew, a piece at a time, and leaves whole files
or none. `sample` is the number of requests that a format takes which cannot show all. CaptureError for a run that cannot be
read, OSError for a disk that does not take it.
"""

from typing import Final

FORMATS: Final = {
    # name: (module, what it writes)
    "parquet": ("analysis.exports.parquet", "requests.parquet and tokens.parquet"),
    "csv": ("analysis.exports.csv", "requests.csv and stages.csv"),
    "json-vllm": ("analysis.exports.vllm", "stage-N.vllm.json, as `vllm bench serve --save-result --save-detailed`"),
    "json-guidellm": ("analysis.exports.guidellm", "benchmarks.guidellm.json, the metrics of a GuideLLM report"),
    "json-aiperf": ("analysis.exports.aiperf", "stage-N.aiperf.json, as AIPerf's profile_export_aiperf.json"),
    "hlog": ("analysis.exports.hlog", "intervals.hlog, HdrHistograms by the second"),
    "perfetto": ("analysis.exports.perfetto", "trace.json, sampled requests for ui.perfetto.dev and chrome://tracing"),
    "otlp": ("analysis.exports.otlp", "traces.otlp.jsonl, sampled requests as OpenTelemetry spans"),
    "openmetrics": ("analysis.exports.openmetrics", "metrics.txt, the summary in the text format of Prometheus"),
}
