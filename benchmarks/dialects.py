"""What does a token cost in each API? CPU of all the client's processes, beside OpenAI chat in the same minutes.

    python benchmarks/dialects.py [API ...] [--streams 1000] [--rounds 3]

The method is that of cost.py: the slope between a run and one three times as long, so that start-up does not count. In
each round chat is measured before and after the others, and an API's ratio is to the mean of the two: the machine's
speed drifts.
"""

import argparse
import statistics
import sys
from typing import Any, Final

from bench import loadgen_run, save, simulator

TOKENS: Final = 64
BASE: Final = "chat"

# What an API is asked beside the load, where it is not the whole of its name.
OPTIONS: Final = {
    "chat+continuous": ("--api", "chat", "--usage", "continuous"),
    "triton": ("--api", "triton", "--model", "sim"),
    "azure": ("--api", "azure", "--model", "sim"),
    "databricks": ("--api", "databricks", "--model", "sim"),
}
APIS: Final = (
    "completions", "responses", "messages", "azure", "databricks", "sglang", "tgi", "triton", "ollama", "ollama-generate",
    "llamacpp", "gemini", "chat+continuous",
)  # fmt: skip


def cpu_us(url: str, api: str, streams: int, requests: int) -> float:
    """CPU us of one `loadgen run`, all processes."""
    options = OPTIONS.get(api, ("--api", api))
    with loadgen_run(
        "--url", url, *options, "--concurrency", str(streams), "--requests", str(requests), "--output-tokens", str(TOKENS),
        "--input-tokens", "64", "--no-check", "--model", "sim",
    ) as finished:  # fmt: skip
        stage = finished.summary()["stages"][0]
        if stage["requests"]["completed"] != requests:
            sys.exit(f"{api}: {requests} requests were sent, {stage['requests']['completed']} completed")
        return finished.cpu_s * 1e6


def cost_us(url: str, api: str, streams: int) -> float:
    """CPU us a token, without start-up."""
    short, long = streams, 3 * streams
    return (cpu_us(url, api, streams, long) - cpu_us(url, api, streams, short)) / ((long - short) * TOKENS)


def measure(apis: tuple[str, ...], streams: int, rounds: int) -> dict[str, Any]:
    """Cost and ratio of each API, round by round."""
    costs: dict[str, list[float]] = {api: [] for api in (BASE, *apis)}
    ratios: dict[str, list[float]] = {api: [] for api in apis}
    with simulator("--step", "20ms") as served:
        url = served.url.removesuffix("/v1")
        for _ in range(rounds):
            before = cost_us(url, BASE, streams)
            costs[BASE].append(before)
            for api in apis:
                costs[api].append(cost_us(url, api, streams))
                after = cost_us(url, BASE, streams)
                costs[BASE].append(after)
                ratios[api].append(costs[api][-1] / ((before + after) / 2))
                before = after
    return {
        "streams": streams,
        "tokens": TOKENS,
        "us_per_token": {api: [round(value, 2) for value in values] for api, values in costs.items()},
        "ratio_to_chat": {api: [round(value, 2) for value in values] for api, values in ratios.items()},
        "ratio_median": {api: round(statistics.median(values), 2) for api, values in ratios.items()},
    }


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("apis", nargs="*", metavar="API", default=APIS)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    save("dialects", measure(tuple(chosen.apis), chosen.streams, chosen.rounds))


if __name__ == "__main__":
    main()
