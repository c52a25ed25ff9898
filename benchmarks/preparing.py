"""How many requests a second the preparer makes: the most that a load with drawn lengths or a data set can ask.

Method: units are made, worded and packed as in a run, in one process, without the ring; CPU time counts, so that a busy
machine does not. Prompts of 512 tokens on average, those of the trace of 1,050.

    python benchmarks/preparing.py --tokenizer PATH
"""

import argparse
import json
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from bench import save
from traces import write_trace

from loadgen.dealing import deal
from loadgen.distribution import parse_lengths
from loadgen.preparation import Speaking
from loadgen.preparer import Preparer
from loadgen.ring import Ring
from loadgen.wording import Wording
from loadgen.workload.formats import reading
from loadgen.workload.script import Recipe
from loadgen.workload.traces import Course


def requests_per_s(count: int, **fields: Any) -> int:
    """Of CPU time."""
    ring = Ring(1 << 16)
    plain = {"model": "m", "seed": 1, "ignore_eos": False, "most_turns": 1, "real_history": True}
    preparer = Preparer(
        Recipe(**plain | fields), [Speaking("m", False, Wording("chat"))], deal(1, [1.0]), [ring], lambda: None
    )
    units = preparer._script.units(0)
    preparer.record(next(units))
    began_s, made = time.process_time(), 0
    for unit in islice(units, count):
        preparer.record(unit)
        made += 1
    taken_s = time.process_time() - began_s
    ring.close()
    return round(made / taken_s)


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True)
    chosen = parser.parse_args()
    drawn = {"input_tokens": parse_lengths("uniform:256..768"), "output_tokens": parse_lengths("128")}
    with tempfile.TemporaryDirectory(prefix="loadgen-bench-") as folder:
        lines, trace = Path(folder, "prompts.jsonl"), Path(folder, "trace.jsonl")
        lines.write_text("".join(json.dumps({"prompt": "word " * 512, "output_tokens": 5}) + "\n" for _ in range(5000)))
        write_trace(trace, "mooncake", 5000)
        row = {
            "drawn_words": requests_per_s(5000, **drawn),
            "drawn_tokens": requests_per_s(2000, tokenizer=chosen.tokenizer, **drawn),
            "json_lines": requests_per_s(5000, file=reading(str(lines), None, {})),
            "mooncake": requests_per_s(4000, file=reading(str(trace), None, {}), course=Course()),
        }
    save("preparing", row)


if __name__ == "__main__":
    main()
