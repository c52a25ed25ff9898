"""The command line: the only place that prints, exits and reads the environment.

A command's module is imported when the command runs, so that `loadgen --help` pays for click alone.
"""

import importlib
import os
import sys
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


def _open_streams() -> None:
    """Standard streams that are closed are nobody's, and no file of ours: the next one to be opened would have their number,
    and a worker would be given it as its own."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)  # opened under this very number, and now kept by processes
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _output_is_lost() -> bool:
    """Whether standard output takes nothing more, by a byte that it is given: what has failed once need not be told again.

    What it has not taken is then forgotten, or the exit would fail, too.
    """
    try:
        sys.stdout.flush()
        os.write(1, b"\n")
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return True
    return False


def _refusal(error: click.ClickException) -> str:
    """The sentence of the other refusals: the field, what was wrong, what is allowed."""
    if not isinstance(error, click.BadParameter) or isinstance(error, click.MissingParameter) or error.param is None:
        return error.format_message()
    words, kind = error.message.rstrip("."), error.param.type
    value, is_not, why = words.partition(" is not ")
    if isinstance(kind, click.IntRange) and is_not:
        what = "is out of range" if why.startswith("in the range") else "is no whole number"
        least = "" if kind.min is None else f" from {kind.min:,}"
        words = f"{value} {what}; allowed are whole numbers{least}{'' if kind.max is None else f' to {kind.max:,}'}"
    is_option = error.param.param_type_name == "option"
    return f"{', '.join(error.param.opts) if is_option else error.param.human_readable_name}: {words}"


def main() -> None:
    """Run the command line: whatever is refused or fails becomes one sentence on stderr and an exit status."""
    _open_streams()
    try:
        status = group(standalone_mode=False)
        sys.stdout.flush()
        raise SystemExit(status)
    except LoadgenError as error:
        words, status = str(error), error.exit_status
    except click.ClickException as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # click has it since 8.2
            error.show()
            raise SystemExit(error.exit_code) from None
        words, status = _refusal(error), error.exit_code
    except click.Abort:
        words, status = "interrupted", 130
    except OSError as error:
        if sys.stdout is not sys.__stdout__ or not _output_is_lost():
            raise
        words, status = f"standard output cannot be written: {error.strerror}", 1
    # A server's words may hold anything, and stderr is a terminal.
    click.echo("loadgen: " + "".join(c if c.isprintable() else "?" for c in " ".join(words.split())), err=True)
    raise SystemExit(status)
