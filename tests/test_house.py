"""The plan of the house: who may import what, what a module may be called, who prints, and what a start costs.

The table is style.md's, with the rooms that stand today. A room that is not in it has to be put there first.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from asked import PATIENCE_S

ROOT = Path(__file__).parent.parent

# room: (first-party rooms that it may import, third-party packages). A room may always import itself.
MAY_IMPORT: dict[str, tuple[set[str], set[str]]] = {
    # Imported when somebody asks for the name: `import loadgen` itself costs nothing.
    "loadgen": ({"loadgen.errors", "loadgen.notebook"}, set()),
    "loadgen.__main__": ({"loadgen.cli"}, set()),
    "loadgen.errors": (set(), set()),
    "loadgen.arrow": (set(), {"numpy", "pyarrow"}),
    "loadgen.blotting": (set(), set()),
    "loadgen.clock": (set(), set()),
    "loadgen.durations": (set(), set()),
    "loadgen.loopback": (set(), set()),
    "loadgen.trust": (set(), set()),
    "loadgen.distribution": ({"loadgen.durations"}, set()),
    "loadgen.dealing": ({"loadgen.distribution"}, set()),
    "loadgen.board": (set(), set()),
    "loadgen.host": (set(), set()),
    "loadgen.wire": (set(), {"httptools"}),
    "loadgen.wording": (set(), set()),
    "loadgen.media": (set(), set()),
    "loadgen.plan": ({"loadgen.dealing", "loadgen.distribution", "loadgen.wording"}, set()),
    "loadgen.schema": (set(), {"pyarrow"}),
    "loadgen.spec": (
        {
            "loadgen.distribution",
            "loadgen.durations",
            "loadgen.errors",
            "loadgen.media",
            "loadgen.schedule",
        },
        set(),
    ),
    "loadgen.schedule": ({"loadgen.durations"}, {"numpy"}),
    # Made of what a spec says, of which the other two are part.
    "loadgen.schedule.stage": ({"loadgen.clock", "loadgen.errors", "loadgen.schedule", "loadgen.spec"}, {"numpy"}),
    "loadgen.dialects": ({"loadgen.errors", "loadgen.wording"}, {"orjson"}),
    "loadgen.ring": (set(), set()),
    "loadgen.nonces": (set(), set()),
    "loadgen.tokens": ({"loadgen.errors"}, {"tiktoken", "tokenizers"}),
    "loadgen.workload": (
        {
            "loadgen.dialects",
            "loadgen.distribution",
            "loadgen.errors",
            "loadgen.media",
            "loadgen.nonces",
            "loadgen.tokens",
        },
        {"numpy", "orjson", "pyarrow"},
    ),
    "loadgen.recipes": (
        {
            "loadgen.clock",
            "loadgen.dialects",
            "loadgen.distribution",
            "loadgen.errors",
            "loadgen.forecast",
            "loadgen.preparation",
            "loadgen.spec",
            "loadgen.tokens",
            "loadgen.wording",
            "loadgen.workload",
        },
        {"orjson"},
    ),
    "loadgen.preparation": (
        {
            "loadgen.dealing",
            "loadgen.errors",
            "loadgen.plan",
            "loadgen.ring",
            "loadgen.wording",
            "loadgen.workload",
        },
        set(),
    ),
    "loadgen.preparer": (
        {
            "loadgen.dealing",
            "loadgen.dialects",
            "loadgen.errors",
            "loadgen.preparation",
            "loadgen.ring",
            "loadgen.workload",
        },
        {"orjson"},
    ),
    "loadgen.planner": (
        {
            "loadgen",
            "loadgen.clock",
            "loadgen.dealing",
            "loadgen.dialects",
            "loadgen.distribution",
            "loadgen.errors",
            "loadgen.nonces",
            "loadgen.plan",
            "loadgen.preparation",
            "loadgen.recipes",
            "loadgen.schedule.stage",
            "loadgen.tokens",
            "loadgen.schema",  # its version number alone: it goes into each capture
            "loadgen.spec",
            "loadgen.wording",
            "loadgen.workload",
        },
        {"orjson"},
    ),
    "loadgen.worker": (
        {
            "loadgen.arrow",
            "loadgen.blotting",
            "loadgen.board",
            "loadgen.clock",
            "loadgen.dealing",
            "loadgen.dialects",
            "loadgen.distribution",
            "loadgen.errors",
            "loadgen.host",
            "loadgen.nonces",
            "loadgen.plan",
            "loadgen.ring",
            "loadgen.schema",
            "loadgen.tokens",
            "loadgen.wire",
            "loadgen.worker.portable",
        },
        {"numpy", "orjson", "pyarrow", "uvloop"},
    ),
    # aiohttp is for the portable transport, which is imported where it is asked for.
    "loadgen.worker.portable": (
        {"loadgen.clock", "loadgen.plan", "loadgen.wire", "loadgen.worker"},
        {"aiohttp", "yarl"},
    ),
    "loadgen.coordinator": (
        {
            "loadgen.blotting",
            "loadgen.board",
            "loadgen.clock",
            "loadgen.errors",
            "loadgen.host",
            "loadgen.plan",
        },
        set(),
    ),
    "loadgen.probe": (
        {
            "loadgen",
            "loadgen.clock",
            "loadgen.dialects",
            "loadgen.errors",
            "loadgen.plan",
            "loadgen.trust",
            "loadgen.wire",
        },
        {"aiohttp", "orjson"},
    ),
    "loadgen.exporter": (
        {"loadgen.board", "loadgen.clock", "loadgen.coordinator", "loadgen.errors"},
        set(),
    ),
    "loadgen.scrape": (
        {
            "loadgen.arrow",
            "loadgen.blotting",
            "loadgen.clock",
            "loadgen.schema",
            "loadgen.scrape.plan",
            "loadgen.trust",
            "loadgen.wire",
        },
        {"aiohttp", "orjson", "pyarrow"},
    ),
    "loadgen.scrape.plan": (set(), set()),
    "loadgen.crew": (
        {
            "loadgen.board",
            "loadgen.coordinator",
            "loadgen.dialects",
            "loadgen.errors",
            "loadgen.host",
            "loadgen.plan",
            "loadgen.planner",
            "loadgen.preparation",
            "loadgen.recipes",
            "loadgen.schedule.stage",
            "loadgen.spec",
            "loadgen.workload",
        },
        set(),
    ),
    "loadgen.local_run": (
        {
            "loadgen",
            "loadgen.clock",
            "loadgen.coordinator",
            "loadgen.crew",
            "loadgen.dialects",
            "loadgen.errors",
            "loadgen.host",
            "loadgen.plan",
            "loadgen.planner",
            "loadgen.recipes",
            "loadgen.schedule.stage",
            "loadgen.scrape.plan",
            "loadgen.spec",
            "loadgen.workload",
        },
        {"orjson"},
    ),
    # The same run over many machines; an agent sums up on its node what it has captured there.
    "loadgen.cluster": (
        {
            "analysis",
            "loadgen",
            "loadgen.board",
            "loadgen.clock",
            "loadgen.cluster.clock",
            "loadgen.cluster.engine",
            "loadgen.coordinator",
            "loadgen.crew",
            "loadgen.dialects",
            "loadgen.errors",
            "loadgen.host",
            "loadgen.local_run",
            "loadgen.plan",
            "loadgen.planner",
            "loadgen.schedule.stage",
            "loadgen.schema",
            "loadgen.spec",
        },
        {"numpy", "pyarrow"},
    ),
    "loadgen.cluster.clock": (set(), set()),
    "loadgen.cluster.engine": ({"loadgen.arrow", "loadgen.cluster", "loadgen.errors", "loadgen.host"}, {"ray"}),
    "loadgen.machines": ({"loadgen.errors", "loadgen.forecast", "loadgen.host"}, set()),
    "loadgen.forecast": ({"loadgen.clock", "loadgen.plan", "loadgen.schedule.stage", "loadgen.spec"}, set()),
    "loadgen.simulator": (
        {"loadgen.arrow", "loadgen.clock", "loadgen.errors"},
        {"httptools", "numpy", "pyarrow", "uvloop"},
    ),
    # What it measures it holds against the truth, which the analysis does.
    "loadgen.doctor": (
        {
            "analysis",
            "loadgen.clock",
            "loadgen.errors",
            "loadgen.host",
            "loadgen.local_run",
            "loadgen.simulator",
        },
        {"pyarrow"},
    ),
    # The two packages meet here, and in what stands on it.
    "loadgen.job": (
        {
            "analysis",
            "loadgen",
            "loadgen.blotting",
            "loadgen.board",
            "loadgen.clock",
            "loadgen.coordinator",
            "loadgen.dialects",
            "loadgen.doctor",
            "loadgen.errors",
            "loadgen.exporter",
            "loadgen.forecast",
            "loadgen.host",
            "loadgen.local_run",
            "loadgen.plan",
            "loadgen.planner",
            "loadgen.probe",
            "loadgen.recipes",
            "loadgen.schedule",
            "loadgen.schema",
            "loadgen.scrape",
            "loadgen.spec",
        },
        {"rich"},
    ),
    "loadgen.notebook": (
        {
            "analysis",
            "analysis.figures",
            "loadgen.durations",
            "loadgen.errors",
            "loadgen.job",
            "loadgen.schema",
            "loadgen.spec",
        },
        {"altair", "pandas", "pyarrow", "rich"},
    ),
    "loadgen.cli": ({"*"}, {"click", "orjson", "rich"}),
    "analysis": ({"loadgen.schema"}, {"hdrh", "numpy", "pyarrow", "rich"}),
    # What draws comes with the extra `plots`: nobody else in the analysis may need it.
    "analysis.figures": ({"analysis"}, {"altair", "numpy", "pyarrow", "vl_convert"}),
    "analysis.page": (
        {"analysis", "analysis.figures", "loadgen.schema"},
        {"altair", "jinja2", "markupsafe", "vl_convert"},
    ),
}

FORBIDDEN_NAMES = {"utils", "helpers", "common", "base", "core", "manager", "handler", "service", "types"}

SOURCES = sorted(path for room in ("loadgen", "analysis") for path in (ROOT / room).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in SOURCES}


def room_of(module: str) -> str:
    """The longest prefix that the table knows; loadgen itself stands for its __init__ alone."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in MAY_IMPORT and (name != "loadgen" or module == "loadgen"):
            return name
    raise LookupError(f"{module} is in no room of the table; put it there")


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Every module that a file names in an import, wherever that stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            assert node.module is not None
            # `from loadgen import board` names a module, `from loadgen import __version__` does not.
            found |= {
                inner if (inner := f"{node.module}.{name.name}") in MODULES else node.module for name in node.names
            }
    return frozenset(found)


def is_first_party(module: str) -> bool:
    return module.partition(".")[0] in ("loadgen", "analysis", "benchmarks", "tests")


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_point_down(path):
    module = module_of(path)
    room = room_of(module)
    rooms, packages = MAY_IMPORT[room]
    first_party = {room_of(name) for name in imports_of(path) if is_first_party(name)} - {room}
    if "*" not in rooms:
        assert first_party <= rooms, "see the table in this file, and style.md (c)"
    third_party = {
        name.partition(".")[0]
        for name in imports_of(path)
        if not is_first_party(name) and name.partition(".")[0] not in sys.stdlib_module_names
    }
    assert third_party <= packages


def test_every_rule_of_the_table_is_about_a_room_that_stands():
    rooms = {room_of(module) for module in MODULES}
    assert rooms == set(MAY_IMPORT)


def test_the_worker_never_sees_what_the_user_asked_for():
    script = (
        "import loadgen.worker.main, sys\n"
        "print(sorted({'loadgen.spec', 'loadgen.planner', 'loadgen.workload', 'loadgen.cli', 'aiohttp', 'click'}"
        " & sys.modules.keys()))"
    )
    assert loaded(script) == "[]"


def test_the_simulator_shares_no_parser_with_the_product():
    script = (
        "import loadgen.simulator.server, sys\n"
        "print(sorted(name for name in sys.modules if name.startswith('loadgen.')"
        " and not name.startswith(('loadgen.simulator', 'loadgen.arrow', 'loadgen.clock', 'loadgen.errors'))))"
    )
    assert loaded(script) == "[]"


def test_only_what_runs_a_job_and_what_stands_on_it_imports_both_packages():
    for path in SOURCES:
        module = module_of(path)
        names = {name for name in imports_of(path) if name.partition(".")[0] == "analysis"}
        assert not names or module.startswith(
            ("analysis", "loadgen.cli", "loadgen.cluster", "loadgen.doctor", "loadgen.job", "loadgen.notebook")
        ), module


def test_analysis_knows_the_load_side_through_the_schema_alone():
    for path in SOURCES:
        if module_of(path).startswith("analysis"):
            assert {name for name in imports_of(path) if name.startswith("loadgen")} <= {"loadgen.schema"}


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_a_module_is_called_by_the_noun_a_reader_would_look_for(path):
    name = path.stem if path.stem != "__init__" else path.parent.name
    assert name.strip("_") not in FORBIDDEN_NAMES


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_nothing_prints_or_reads_the_environment_but_where_it_is_meant_to(path):
    if module_of(path).startswith("loadgen.cli"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "input", "breakpoint"), f"line {node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            what = f"{node.value.id}.{node.attr}"
            assert what not in ("sys.stdout", "os.getenv"), f"line {node.lineno}"
            # The coordinator hands the environment on to its workers; nobody else looks into it.
            may_look = ("loadgen.coordinator", "loadgen.job.environment")
            assert what != "os.environ" or module_of(path) in may_look, f"line {node.lineno}"


def loaded(script: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    return done.stdout.strip()


HEAVY = "{'aiohttp', 'altair', 'asyncio', 'click', 'httptools', 'numpy', 'orjson', 'pyarrow', 'rich', 'uvloop'}"


@pytest.mark.parametrize("module", ["loadgen", "analysis", "loadgen.errors", "loadgen.plan"])
def test_importing_a_package_costs_nothing(module):
    assert loaded(f"import {module}, sys; print(sorted({HEAVY} & sys.modules.keys()))") == "[]"


def test_a_spec_can_be_built_without_any_other_package():
    script = f"import loadgen.spec.file, sys; print(sorted({HEAVY} & sys.modules.keys()))"
    assert loaded(script) == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_help_pays_for_click_alone(arguments):
    script = (
        "import sys; from loadgen.cli import main\n"
        f"sys.argv = ['loadgen', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print(sorted(({HEAVY} - {{'click'}}) & sys.modules.keys()))"
    )
    assert loaded(script).splitlines()[-1] == "[]"


def test_test_modules_have_names_of_their_own():
    # pytest finds them by their base name where there is no package around them.
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path.stem != "conftest"]
    names = [path.stem for path in tests]
    assert sorted(set(names)) == sorted(names)
    assert "__init__" not in names
    # Beside a folder of that name, which a run makes, ruff would sort the import of a module among the project's own.
    made = {line.strip("/\n") for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("/")}
    assert "runs" in made
    assert not made & set(names)
