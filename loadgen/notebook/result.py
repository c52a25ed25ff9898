"""What a run came to: its numbers as plain values, as Arrow and pandas, as pictures and as HTML."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loadgen.errors import UsageError

if TYPE_CHECKING:
    import altair
    import pandas
    import pyarrow

    from analysis.summary import Analysis

PLOTS: Final = ("latency", "latencies", "load", "percentiles", "histogram", "timeline")


@dataclass(frozen=True)
class Result:
    """A run that is over, or as much of one as was measured."""

    run_dir: Path
    analysis: "Analysis" = field(repr=False)

    @property
    def summary(self) -> dict[str, Any]:
        """What summary.json says (docs/metrics.md)."""
        return self.analysis.summary

    @property
    def curve(self) -> list[dict[str, Any]]:
        """A point a level of load, by ascending load, with 95 % intervals."""
        curve: list[dict[str, Any]] = self.summary["curve"]
        return curve

    @property
    def verdict(self) -> dict[str, Any]:
        """{"ok": whether to believe it, "reasons": [{"code", "stage", "words", "try"}]}."""
        verdict: dict[str, Any] = self.summary["verdict"]
        return verdict

    @property
    def saturation(self) -> dict[str, Any] | None:
        """What saturation.json says (docs/saturation.md); None for anything but `saturate`."""
        from analysis import saturation

        return saturation.read(self.run_dir) if self.summary["question"] else None

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped before its end."""
        return bool(self.summary["interrupted"])

    def to_arrow(self, rows: str = "points") -> "pyarrow.Table":
        """A row a point of the curve, or with rows="stages" a row a stage, with rows="targets"
        a row a target (and endpoint) of each stage; every column's name ends in its unit."""
        from analysis import frames

        if rows == "points":
            return frames.points(self.summary, self.saturation)
        if rows == "stages":
            return frames.stages(self.summary)
        if rows == "targets":
            return frames.targets(self.summary)
        raise UsageError(f"rows: {rows!r} is not known; allowed is 'points', 'stages' or 'targets'")

    def to_pandas(self, rows: str = "points") -> "pandas.DataFrame":
        """As to_arrow. UsageError without pandas."""
        try:
            import pandas  # noqa: F401 - pyarrow needs it here
        except ImportError:
            raise UsageError("to_pandas() needs pandas: pip install pandas; to_arrow() needs nothing") from None
        return self.to_arrow(rows).to_pandas()

    def requests(self, columns: list[str] | None = None) -> "pyarrow.Table":
        """The rows of the capture, a row a request, with the stamp of every token (docs/capture.md).

        UsageError for a column that there is not.
        """
        from analysis import frames
        from loadgen.schema import CaptureError

        try:
            return frames.requests(self.run_dir, columns)
        except CaptureError as error:
            raise UsageError(str(error)) from None

    def plot(self, kind: str = "latency", *, metric: str = "ttft", percentile: str = "p50") -> "altair.TopLevelMixin":
        """An Altair chart: a notebook shows it, `.save("x.html")` keeps it. UsageError without the extra `loadgen[plots]`.

        kind: "latency" over throughput, a point a stage; "latencies", the four of them side by side; "load", throughput by
        load; "percentiles" and "histogram" of a metric; "timeline" of the run.
        metric: ttft, tpot, itl, e2e. percentile: p50, p90, p99.
        """
        try:
            from analysis import figures
            from analysis.curves import PERCENTILES
        except ImportError:
            raise UsageError("plot() needs what draws pictures: pip install 'loadgen[plots]'") from None
        for name, value, allowed in (
            ("kind", kind, PLOTS),
            ("metric", metric, tuple(figures.LATENCIES)),
            ("percentile", percentile, tuple(PERCENTILES)),
        ):
            if value not in allowed:
                raise UsageError(f"{name}: {value!r} is not known; allowed is {', '.join(map(repr, allowed))}")
        found = self.saturation
        limits = {"": found} if found else {}
        chart: altair.TopLevelMixin
        if kind == "latency":
            chart = figures.throughput_latency(self.summary, metric, percentile, limits=limits)
        elif kind == "latencies":
            chart = figures.throughput_latency_grid(self.summary, percentile, limits=limits)
        elif kind == "load":
            chart = figures.throughput_by_load(self.summary)
        elif kind == "percentiles":
            chart = figures.percentile_spectrum(self.analysis, metric)
        elif kind == "histogram":
            chart = figures.latency_histogram(self.analysis, metric)
        else:
            chart = figures.timeline(self.summary)
        return figures.on_paper(chart)

    def __repr__(self) -> str:
        verdict = "valid" if self.verdict["ok"] else "suspect"
        stages = len(self.summary["stages"])
        over = ", interrupted" if self.interrupted else ""
        command = self.summary["command"] or "run"
        return f"<loadgen {command} {str(self.run_dir)!r}: {stages} stage{'s' if stages != 1 else ''}, {verdict}{over}>"

    def _repr_html_(self) -> str:
        from loadgen.notebook.display import html

        return html(self.summary, self.saturation, self.run_dir)


def load(run_dir: str | Path) -> Result:
    """A run that is over, is still going on or was killed, from its capture. Writes nothing. UsageError if it is none."""
    from analysis.summary import analyse
    from loadgen.schema import CaptureError

    path = Path(run_dir)
    if not (path / "capture").is_dir():
        raise UsageError(f"{str(run_dir)!r} is no run: there is no capture/ in it")
    try:
        return Result(path, analyse(path))
    except CaptureError as error:
        raise UsageError(str(error)) from None
