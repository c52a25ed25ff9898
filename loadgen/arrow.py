"""pyarrow in the processes that are loadgen's own."""

import sys
from collections.abc import Sequence
from types import ModuleType


class _NoPandas:
    """A finder of modules that finds no pandas, whoever else might."""

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not wanted here", name=name)


def leave_pandas_out() -> None:
    """Have pyarrow do without pandas in this process, as where there is none; who imports it later still gets it.

    For its first array pyarrow imports pandas where it is installed: some 0.2 s and 40 MB in every worker, and in the
    simulator a silence in the middle of its streams. Not for a process of the user's own: its arrays may be made of his
    data frames.
    """
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([0])  # it looks once, and remembers
    finally:
        sys.meta_path.remove(_NoPandas)
