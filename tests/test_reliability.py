"""docs/reliability.md promises nothing without a test: every test it names is there, and is marked as slow where it is."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"


def named_tests() -> dict[str, bool]:
    """Every test function below this folder -> whether it, or all of its cases, is slow."""
    found = {}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[node.name] = any(ast.unparse(mark) == "pytest.mark.slow" for mark in node.decorator_list)
    return found


def test_every_test_that_the_page_names_is_there_and_slow_where_it_says_so():
    named = re.findall(r"`(test_\w+)`(\*?)", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 40
    there = named_tests()
    assert [name for name, _ in named if name not in there] == []
    assert [name for name, star in named if bool(star) != there[name]] == []


def test_every_promise_names_a_test():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    tables = "\n".join(rows).split("| promise | test |\n|---|---|\n")[1:]
    promises = [row for table in tables for row in table.splitlines() if len(row.strip("|").split("|")) == 2]
    assert len(promises) > 25
    assert [row for row in promises if "`test_" not in row] == []
