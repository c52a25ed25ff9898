"""Trees of /proc and /sys."""

from collections.abc import Callable
from pathlib import Path

import pytest

Plant = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Plant:
    """plant({path: text}, ...) -> the root of a tree with these files; a later text replaces an earlier one."""

    def plant(*files: dict[str, str]) -> Path:
        for path, text in ((path, text) for some in files for path, text in some.items()):
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return plant
