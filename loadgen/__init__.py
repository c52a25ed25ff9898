"""A multiprocess, high-precision load generator for streaming LLM endpoints.

    import loadgen

    result = loadgen.sweep(url="http://127.0.0.1:8000", concurrency=[1, 2, 4], duration="30s")

`run`, `sweep` and `saturate` make load, `load` opens a run that is over (loadgen.notebook).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loadgen.errors import EndpointError, LoadgenError, RunError, UsageError
    from loadgen.notebook import Result, load, run, run_async, saturate, saturate_async, sweep, sweep_async

__version__ = "0.1.0"

__all__ = [
    "EndpointError",
    "LoadgenError",
    "Result",
    "RunError",
    "UsageError",
    "__version__",
    "load",
    "run",
    "run_async",
    "saturate",
    "saturate_async",
    "sweep",
    "sweep_async",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is: workers and the command line pay for none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from loadgen import errors, notebook

    value = getattr(errors, name, None) or getattr(notebook, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
