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


def prepare_pyarrow() -> None:
    """Have pyarrow import now what it would import for its first array, in the middle of the load; without pandas.

    Where pandas is installed that is some 0.2 s and 40 MB in every worker, and in the simulator a silence in its streams;
    who imports it later still gets it. numpy.ma is 7 ms. Not for a process of the user's own: its arrays may be made of
    his data frames.
    """
    import numpy as np
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([0])  # it looks once, and remembers
    finally:
        sys.meta_path.remove(_NoPandas)
    pa.array(np.zeros(1))
