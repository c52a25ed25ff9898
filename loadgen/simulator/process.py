"""The simulator as a process of its own, for tests and benchmarks.

with serve("--step", "5ms", cpu=0) as served:
    ...                     # served.url is http://127.0.0.1:PORT/v1
    served.stop()           # the truth log is whole after this
    rows = served.truth()
"""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from loadgen.errors import RunError

if TYPE_CHECKING:
    import pyarrow as pa

STOP_S: Final = 10.0
"""So long a simulator may take to write its log after SIGTERM; then it is killed."""


@dataclass(slots=True)
class Served:
    """A running simulator. `url` is the base URL, `model` what it serves, `truth_path` its log."""

    url: str
    model: str
    truth_path: Path
    pid: int
    _process: "subprocess.Popen[str]" = field(repr=False)
    _errors: IO[str] = field(repr=False)

    @property
    def root(self) -> str:
        """The address without the path of OpenAI's API, which other APIs begin at."""
        return self.url.removesuffix("/v1")

    def stop(self) -> str:
        """End it in order (SIGTERM) and return its summary line; RunError if it failed. More calls do nothing."""
        said = _stop(self._process)
        if self._process.returncode != 0:
            raise RunError(f"the simulator ended with status {self._process.returncode}: {_read(self._errors)}")
        return said

    def kill(self) -> None:
        """End it at once (SIGKILL): the truth log keeps what was flushed."""
        self._process.kill()
        self._process.wait()

    def truth(self) -> "pa.Table":
        """The truth log as far as it is written: all of it after `stop`."""
        from loadgen.simulator import truth

        return truth.read(self.truth_path)


@contextlib.contextmanager
def serve(*options: str, cpu: int | None = None) -> Iterator[Served]:
    """A simulator with these command-line options (`--port 0` and `--truth` are set unless given), up while inside.

    `cpu` pins it. It ends with the block, whatever happens there, and with this process even if that is killed.
    RunError, with its own words, if it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="loadgen-simulate-") as folder, tempfile.TemporaryFile("w+") as errors:
        if cpu is not None:
            options = (*options, "--cpu", str(cpu))
        if "--port" not in options:
            options = (*options, "--port", "0")
        if "--truth" in options:
            truth_path = Path(options[options.index("--truth") + 1])
        else:
            truth_path = Path(folder, "truth.arrow")
            options = (*options, "--truth", str(truth_path))
        process = subprocess.Popen(
            [sys.executable, "-m", "loadgen", "simulate", "--stop-on-eof", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                process.wait()
                raise RunError(f"the simulator did not start: {_read(errors)}")
            _, url, model = line.rstrip("\n").rsplit(" ", 2)
            yield Served(url, model.removeprefix("model="), truth_path, process.pid, process, errors)
        finally:
            _stop(process)
            process.stdin.close()
            process.stdout.close()


def _stop(process: "subprocess.Popen[str]") -> str:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert process.stdout is not None
    return "" if process.stdout.closed else process.stdout.read().strip()


def _read(errors: IO[str]) -> str:
    errors.seek(0)
    return errors.read().strip()
