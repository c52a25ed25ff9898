"""The fuzz targets over their corpora, and for some seconds over what a coverage-guided fuzzer makes of them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from targets import TARGETS

HERE = Path(__file__).parent
CORPUS = [(path.parent.name, path) for path in sorted((HERE / "corpus").glob("*/*"))]


def test_every_target_has_a_contract_and_a_corpus():
    assert {name for name, _ in CORPUS} == TARGETS.keys()
    assert all(target.__doc__ for target in TARGETS.values())


@pytest.mark.parametrize(("name", "path"), CORPUS, ids=[f"{name}/{path.name}" for name, path in CORPUS])
def test_what_was_once_of_interest_keeps_the_contract(name, path):
    TARGETS[name](path.read_bytes())


def test_a_target_that_breaks_its_contract_is_found_out(tmp_path):
    """A fuzzer that cannot fail finds nothing: one planted bug, behind two comparisons."""
    planted = (
        "import sys; sys.argv = ['fuzz', 'traces', *sys.argv[1:]]\n"
        f"sys.path.insert(0, {str(HERE)!r})\n"
        "import fuzz\n"
        "def planted(data):\n"
        "    if data[:1] == b'7' and data[1:2] == b'!': raise AssertionError('found')\n"
        "import atheris\n"
        "fuzz.TARGETS['traces'] = atheris.instrument_func(planted)\n"
        "fuzz.main()\n"
    )
    done = fuzzing([sys.executable, "-c", planted, "-runs=500000", "-seed=1"], tmp_path)
    assert done.returncode != 0
    assert "AssertionError: found" in done.stderr + done.stdout


@pytest.mark.parametrize("name", TARGETS)
def test_fuzzing_for_a_moment_finds_nothing(name, tmp_path):
    runs = {"responses": 1_500, "captures": 1_500, "events": 3_000, "payloads": 6_000}.get(name, 15_000)
    done = fuzzing([sys.executable, str(HERE / "fuzz.py"), name, f"-runs={runs}", "-seed=1"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr + done.stdout)
    assert executed is not None
    assert int(executed[1]) >= runs


def fuzzing(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """A fuzzer's run to its end, in a folder of its own."""
    pytest.importorskip("atheris", reason="the fuzzer (atheris) is not installed here: corpora alone were tried")
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=380, check=False)
