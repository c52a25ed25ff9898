"""A curve from idle to overload takes one command and a minute: throughput rises to the endpoint's limit, then waits grow.

Truth: without --url the endpoint is the simulated one, with the engine ENGINE. Its limit is computed, not measured, and
printed before the run: the tokens/s of the last stages have to come near it and stay below.

Method: `loadgen run`, as it is typed, on cores of its own: the server on the first core, the worker on the last one. Its
output, its Ctrl-C and its exit status are this script's. With --url nothing is simulated, and it runs on all cores.

    python benchmarks/main_job.py [--url URL] [--model NAME] [--concurrency 1,8,64,256] [--duration 12s] [OPTION ...]

Every other OPTION is one of `loadgen run`.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Final

from loadgen.errors import LoadgenError
from loadgen.host import usable_cores
from loadgen.simulator.process import serve

LOADGEN: Final = (sys.executable, "-m", "loadgen")

CONCURRENCY: Final = "1,8,64,256"
DURATION: Final = "12s"
"""A stage; with warm-ups and drains the four make about a minute."""

# A batch of 128 decodes at a fifth of the speed of a batch of 1, and 256 streams are two batches: one runs, one waits.
ENGINE: Final = (
    "--prefill-rate", "80000", "--step", "5ms", "--step-per-running", "150us", "--max-running", "128",
    "--jitter", "normal:0.05",
)  # fmt: skip
LOAD: Final = ("--input-tokens", "512", "--output-tokens", "128")


def command(chosen: argparse.Namespace, others: list[str], url: str, model: str | None) -> list[str]:
    """The `loadgen run` to type; what the user gave stands last, so that it wins."""
    typed = [*LOADGEN, "run", "--url", url, *(("--model", model) if model else ())]
    typed += ["--concurrency", chosen.concurrency, "--duration", chosen.duration]
    return [*typed, *others]


def placed(usable: list[int]) -> tuple[int | None, list[str]]:
    """(the server's core, options that keep the client off it); with one core they share it."""
    if not hasattr(os, "sched_setaffinity"):
        return None, []
    return usable[0], ["--cpus", str(usable[-1])]


def limit() -> str:
    """What the simulated engine can give at most, in its own words."""
    told = subprocess.run(
        [*LOADGEN, "simulate", *ENGINE, "--capacity", f"{LOAD[1]},{LOAD[3]}"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return told.stdout.strip()


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started meanwhile never see a Ctrl-C: it is for the command, whose last requests want to be answered."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def passed_through(typed: list[str]) -> int:
    """Run a command on this terminal; its exit status. It alone answers to Ctrl-C, and gets SIGTERM handed on."""
    process = subprocess.Popen(typed)

    def hand_on(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            process.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)
    status = process.wait()
    return status if status >= 0 else 128 - status


def main() -> None:
    """Serve if need be, run, leave with the command's status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--url", help="the endpoint; without it the simulated one is started")
    parser.add_argument("--model")
    parser.add_argument("--concurrency", default=CONCURRENCY)
    parser.add_argument("--duration", default=DURATION)
    chosen, others = parser.parse_known_args()
    with ExitStack() as stack:
        if chosen.url:
            sys.exit(passed_through(command(chosen, others, chosen.url, chosen.model)))
        core, client_cores = placed(usable_cores())
        try:
            with deaf_to_ctrl_c():
                served = stack.enter_context(serve(*ENGINE, "--truth", os.devnull, cpu=core))
        except LoadgenError as error:
            sys.exit(f"main_job: {error}")
        print(f"Simulated endpoint at {served.url}; its limit: {limit()}.", flush=True)
        options = [*LOAD, *client_cores, *others]
        sys.exit(passed_through(command(chosen, options, served.url, chosen.model or served.model)))


if __name__ == "__main__":
    main()
