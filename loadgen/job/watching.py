"""What watches a run besides whoever started it: the exporter of live metrics, and the scraper of the server's."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadgen import __version__

if TYPE_CHECKING:
    from loadgen.coordinator import StageNow
    from loadgen.exporter import Exporter
    from loadgen.local_run import Run
    from loadgen.scrape.process import Scraper


@dataclass
class Watching:
    """Who watches; what was asked for is checked, and the port of --prometheus is taken."""

    scrape: tuple[str, ...] = ()
    scrape_every_ns: int = 1_000_000_000
    exporter: "Exporter | None" = None
    _scraper: "Scraper | None" = None

    @contextmanager
    def of_run(self, run: "Run", say: Callable[[str], None]) -> Iterator[None]:
        """While the workers of `run` are there."""
        with ExitStack() as stack:
            if self.exporter is not None:
                from loadgen.exporter import Totals
                from loadgen.spec import targets

                model = ", ".join(dict.fromkeys(one.model or "" for one in targets.each(run.spec)))
                facts = {"run_id": run.run_id, "version": __version__, "model": model}
                self.exporter.totals = Totals(facts, run.stages)
                stack.enter_context(self.exporter)
                say(f"Live metrics: http://{self.exporter.shown}/metrics")
            if self.scrape:
                from loadgen.scrape.process import Scraper

                self._scraper = stack.enter_context(Scraper(run.scrape_plan(self.scrape, self.scrape_every_ns), say))
            yield

    def look(self, now: "StageNow", entry: dict[str, Any]) -> None:
        """A look at the board, several times a second; `entry` is the stage's in run.json."""
        if self.exporter is not None and self.exporter.totals is not None:
            self.exporter.totals(now)
        if self._scraper is not None:
            self._scraper.begin_stage(entry, now.start_ns)
            self._scraper.listen()

    def stage_ended(self) -> None:
        """A stage has ended."""
        if self._scraper is not None:
            self._scraper.end_stage()
