"""The command line: the only place that prints, exits and reads the environment.

A command's module is imported when the command runs, so that `loadgen --help` pays for click alone.
"""

import importlib
from typing import Final

import click

from loadgen import __version__
from loadgen.errors import LoadgenError

COMMANDS: Final = {
    # name: (module, one line for --help)
    "run": ("loadgen.cli.run", "Load an endpoint and report TTFT, TPOT and throughput at each level of load."),
    "sweep": ("loadgen.cli.sweep", "Measure a curve: latency and throughput over many levels of load."),
    "saturate": (
        "loadgen.cli.saturate",
        "Find the knee, or the most load within the objectives, and say who was the limit.",
    ),
    "doctor": (
        "loadgen.cli.doctor",
        "Say what this machine can measure and how well, and what would make it better.",
    ),
    "plan": (
        "loadgen.cli.plan",
        "Say what a run would do: arrivals, tokens, connections, memory, disk. Calls nothing.",
    ),
    "datasets": (
        "loadgen.cli.datasets",
        "Say what a data set or a trace holds: lengths, sessions, rate, shared prefixes, bad lines.",
    ),
    "simulate": ("loadgen.cli.simulate", "Serve an OpenAI-compatible endpoint whose true times are known."),
    "report": ("loadgen.cli.report", "Recompute and show the results of a run from its capture."),
    "export": (
        "loadgen.cli.export",
        "Write a run's results for other tools: Parquet, CSV, vLLM's JSON, traces and more.",
    ),
    "compare": (
        "loadgen.cli.compare",
        "Say what is faster in which of several runs, and fail when it must not be slower.",
    ),
}
"""Each module has a click command named `command`."""


WIDEST: Final = 110
"""Of --help: longer lines are read less easily."""


class LazyGroup(click.Group):
    """Knows its commands by name; imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}; allowed is {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST})
@click.version_option(__version__, prog_name="loadgen")
def group() -> None:
    """How fast is this endpoint, and where does it break?"""


def main() -> None:
    """Run the command line: whatever is refused or fails becomes one sentence on stderr and an exit status."""
    try:
        raise SystemExit(group(standalone_mode=False))
    except LoadgenError as error:
        words, status = str(error), error.exit_status
    except click.ClickException as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # click has it since 8.2
            error.show()
            raise SystemExit(error.exit_code) from None
        words, status = error.format_message(), error.exit_code
    except click.Abort:
        words, status = "interrupted", 130
    # A server's words may hold anything, and stderr is a terminal.
    click.echo("loadgen: " + "".join(c if c.isprintable() else "?" for c in " ".join(words.split())), err=True)
    raise SystemExit(status)
