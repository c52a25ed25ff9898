"""What the benchmarks share: one simulated endpoint on a core, one load generator with all its processes on another.

Every figure is taken from outside the program that it is about: times from the server's truth log, CPU and memory from
the operating system's accounting of the finished process tree.
"""

import datetime
import ipaddress
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from analysis.captures import Capture, open_run
from analysis.window import Window, stage_marks, stage_window
from loadgen import __version__
from loadgen.simulator.process import Served, serve

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SERVER_CORE, CLIENT_CORE = 0, 1


@dataclass(frozen=True)
class Finished:
    """A load generator's run, ended: its directory, and what all its processes used."""

    run_dir: Path
    cpu_s: float
    peak_rss_mb: float

    def capture(self) -> pa.Table:
        """Every row of the run."""
        tables = [
            pa.ipc.open_stream(path).read_all() for path in sorted((self.run_dir / "capture").rglob("worker-*.arrow"))
        ]
        return pa.concat_tables([table.replace_schema_metadata() for table in tables], promote_options="default")

    def summary(self) -> dict[str, Any]:
        """summary.json."""
        summary: dict[str, Any] = json.loads((self.run_dir / "summary.json").read_text())
        return summary

    def steady(self) -> tuple[list[Capture], Window]:
        """Each worker's capture, and the measured window of the first stage: warm-up and drain lie outside."""
        run = open_run(self.run_dir)
        window = stage_window(run.facts["stages"][0], stage_marks(run.captures, 0))
        assert window is not None, "a run that has ended has begun its first stage"
        return run.captures, window


def measured(command: list[str], *, cores: set[int]) -> tuple[float, float]:
    """Run a command on these cores; (user + system seconds, peak resident MB of its largest process), of the whole tree."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=lambda: os.sched_setaffinity(0, cores)
    )
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}:\n{output.decode()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, after.ru_maxrss / 1024


@contextmanager
def loadgen_run(*options: str, cores: set[int] | None = None, cpus: set[int] | None = None) -> Iterator[Finished]:
    """`loadgen run` with all its processes on the client's core, or on `cores`, of which the workers have `cpus` or all.

    The run directory lasts as long as the block.
    """
    cores = cores or {CLIENT_CORE}
    with tempfile.TemporaryDirectory(prefix="loadgen-bench-") as folder:
        run_dir = Path(folder) / "run"
        of_workers = ",".join(map(str, sorted(cpus or cores)))
        command = [sys.executable, "-m", "loadgen", "run", "--cpus", of_workers, "--out", str(run_dir), *options]
        cpu_s, peak_rss_mb = measured(command, cores=cores)
        yield Finished(run_dir, cpu_s, peak_rss_mb)


@contextmanager
def simulator(*options: str) -> Iterator[Served]:
    """The simulated endpoint, pinned to the server's core."""
    with serve("--max-running", "100000", *options, cpu=SERVER_CORE) as served:
        yield served


def save(name: str, row: dict[str, Any]) -> None:
    """Append a row to results/NAME.jsonl, with where and when it was measured, and print it."""
    RESULTS.mkdir(exist_ok=True)
    proof = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "loadgen": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "command": " ".join(
            ["python", *(Path(sys.argv[0]).parent.name + "/" + Path(sys.argv[0]).name,), *sys.argv[1:]]
        ),
    }
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps({**row, **proof}) + "\n")
    print(json.dumps(row), flush=True)


def _commit() -> str:
    result = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE, check=False
    )
    return result.stdout.strip()


@contextmanager
def certificate() -> Iterator[tuple[str, str]]:
    """(certificate file, key file) of a fresh self-signed certificate for 127.0.0.1."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    with tempfile.TemporaryDirectory(prefix="loadgen-bench-") as folder:
        cert_file, key_file = Path(folder, "cert.pem"), Path(folder, "key.pem")
        cert_file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        yield str(cert_file), str(key_file)
