"""pandas costs a process of loadgen's own nothing where it is installed, and is there for a user's."""

import subprocess
import sys
from pathlib import Path

from asked import PATIENCE_S, children, environment, installed, rows, until

from loadgen.simulator.process import serve

SCRIPT = """
import sys
import numpy as np
import pyarrow as pa
from loadgen.arrow import prepare_pyarrow

prepare_pyarrow()
prepare_pyarrow()
loaded = set(sys.modules)
pa.ListArray.from_arrays(np.array([0, 1], np.int32), np.array([7]))
pa.array(["text", None])
assert set(sys.modules) == loaded, "nothing is left for the first batch to import"
table = pa.table({"a": pa.array([1, 2])})
assert "pandas" not in sys.modules
assert all(finder.__name__ != "_NoPandas" for finder in sys.meta_path if isinstance(finder, type))
print(table.to_pandas()["a"].sum())
"""


def test_pandas_is_left_out_and_still_there_for_who_asks():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def test_neither_a_worker_nor_its_command_nor_the_simulator_imports_pandas(tmp_path):
    command = ["--model", "sim", "--workers", "1", "--duration", "1h", "--no-check", "--out", str(tmp_path)]
    with (
        serve("--step", "2ms", "--flush", "20ms") as served,
        subprocess.Popen(
            [*installed(), "run", "--url", served.url, *command], env=environment(), stderr=subprocess.DEVNULL
        ) as running,
    ):
        try:
            until(lambda: len(rows(tmp_path)) > 2, "a batch of the capture")
            until(lambda: served.truth().num_rows, "a batch of the truth")
            for pid in (served.pid, running.pid, *children(running.pid)):
                loaded = Path(f"/proc/{pid}/maps").read_text()
                assert "libarrow" in loaded or pid == running.pid
                assert "/pandas/" not in loaded
        finally:
            running.kill()
