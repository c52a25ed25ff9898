"""`loadgen datasets FILE`: what a data set or a trace holds."""

from typing import TYPE_CHECKING, Any

import click

from loadgen.errors import UsageError

if TYPE_CHECKING:
    from loadgen.workload.survey import Lengths, Survey

BARS = 12
RATE_BINS = 60
BAR_WIDTH = 40


@click.command(short_help="Say what a data set or a trace holds: lengths, sessions, rate, shared prefixes, bad lines.")
@click.argument("files", metavar="FILE[:FORMAT]...", nargs=-1, required=True)
@click.option(
    "--format",
    "format_",
    metavar="FORMAT",
    help="The format of all that name none; default: recognised by the content.",
)
@click.option("--columns", metavar="FIELD=COLUMN[,...]", help="Where the file has what, as in prompt=question.")
@click.option("--tokenizer", metavar="PATH|NAME", help="Count tokens with it; default: four characters a token.")
@click.option("--skip-bad-lines", is_flag=True, help="Count lines that cannot be used, and go on.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(
    files: tuple[str, ...],
    format_: str | None,
    columns: str | None,
    tokenizer: str | None,
    skip_bad_lines: bool,
    as_json: bool,
) -> None:
    """Say what each FILE holds, as --dataset or --trace would read it.

    FILE may be ShareGPT, OpenAI messages or batch, JSON lines, CSV, Parquet or text, a Mooncake, Bailian, Azure or BurstGPT
    trace, or a run of ours; gzip and zstd are unpacked. The first line that cannot be used ends it with status 2.
    """
    from loadgen import tokens
    from loadgen.spec.notation import read_columns
    from loadgen.workload import formats
    from loadgen.workload.containers import raise_it
    from loadgen.workload.survey import survey

    try:
        named = {} if columns is None else read_columns(columns)
    except ValueError as error:
        raise UsageError(f"--columns: {error}") from None
    if format_ is not None and format_ not in formats.FORMATS:
        raise UsageError(f"--format: {format_!r} is not known; allowed is {', '.join(formats.FORMATS)}")
    if unknown := named.keys() - formats.FIELDS.keys():
        raise UsageError(f"--columns: {min(unknown)!r} is no field; allowed are {', '.join(formats.FIELDS)}")
    counting = None if tokenizer is None else tokens.load(tokenizer)
    told = []
    for written in files:
        path, own = formats.named(written)
        how = formats.reading(path, own or format_, named)
        told.append(survey(how, tokenizer=counting, on_bad=None if skip_bad_lines else raise_it))
    if as_json:
        import orjson

        values = [one.to_json() for one in told]
        click.echo(orjson.dumps(values[0] if len(values) == 1 else values, option=orjson.OPT_INDENT_2).decode())
        return
    from rich.console import Console

    console = Console()
    bar = "█" if console.encoding.lower().startswith("utf") else "#"
    for one in told:
        for line in _lines(one, bar):
            # A file's words may hold anything.
            shown = "".join(c if c.isprintable() else "?" for c in line)
            console.print(shown, markup=False, highlight=False, soft_wrap=True)


def _lines(told: "Survey", bar: str) -> list[str]:
    how = told.how
    lines = [f"{how.path}: {how.format}" + (f" ({how.container})" if how.container != how.format else "")]
    if how.columns:
        lines.append("columns: " + ", ".join(f"{field}={column}" for field, column in how.columns.items()))
    is_conversations = bool(told.turns.counts) and not told.by_second
    lines.append(
        f"{told.units:,} {'conversation' if is_conversations else 'request'}{'s' if told.units != 1 else ''}"
        + (f", {told.requests:,} requests" if told.requests != told.units else "")
    )
    about = "about " if told.tokens_are_estimates else ""
    for title, lengths in (("input tokens", told.input_tokens), ("output tokens", told.output_tokens)):
        lines += ["", *_drawn(f"{about}{title}", lengths, bar)]
    if told.turns.counts:
        turns = told.turns
        sessions = f"{turns.total:,} session{'s' if turns.total != 1 else ''}"
        lines += ["", f"{sessions} of {turns.mean:.1f} turns on average, {turns.percentile(100)} at most"]
    if told.by_second:
        lines += ["", *_rates(told, bar)]
    if told.prefix_tokens:
        share = told.shared_tokens / told.prefix_tokens
        of = "" if told.prefixes_of == told.units else f" (of the first {told.prefixes_of:,} requests)"
        lines += ["", f"{share:.1%} of the input tokens are a prefix that an earlier request had, too{of}"]
    if told.images or told.tools:
        lines += ["", f"{told.images:,} images, {told.tools:,} requests with tools"]
    if told.bad_lines:
        lines += ["", f"{told.bad_lines:,} lines that cannot be used:"]
        lines += [f"  {problem}" for problem in told.problems]
        if told.bad_lines > len(told.problems):
            lines.append(f"  and {told.bad_lines - len(told.problems):,} more")
    return [*lines, ""]


def _drawn(title: str, lengths: "Lengths", bar: str) -> list[str]:
    """A histogram over equal steps of the logarithm, with the percentiles above it."""
    import bisect
    import math

    if not lengths.counts:
        return [f"{title}: not told"]
    values: dict[str, Any] = lengths.to_json() or {}
    lines = [
        f"{title}: mean {values['mean']:,.0f}, least {values['p0']:,}, p50 {values['p50']:,}, p90 {values['p90']:,}, "
        f"p99 {values['p99']:,}, most {values['p100']:,}"
    ]
    least, most = max(values["p0"], 1), max(values["p100"], 1)
    if least == most:
        return lines
    step = math.log((most + 1) / least) / BARS
    edges = sorted({min(math.ceil(least * math.exp(step * number)), most) for number in range(BARS)})
    counts = [0] * len(edges)
    for value, count in lengths.counts.items():
        counts[max(bisect.bisect_right(edges, value) - 1, 0)] += count
    for from_, after, count in zip(edges, [*edges[1:], most + 1], counts, strict=True):
        width = round(BAR_WIDTH * count / max(counts))
        span = f"{from_:,}" if after == from_ + 1 else f"{from_:,}..{after - 1:,}"
        lines.append(f"{span:>20}  {bar * width or ('.' if count else '')} {count:,}")
    return lines


def _rates(told: "Survey", bar: str) -> list[str]:
    rates = told.rates(BARS)
    peak = max(told.by_second.values())
    lines = [
        f"{told.length_s:,.1f} s, {told.units / max(told.length_s, 1e-9):,.3g} arrivals/s on average, "
        f"{peak:,} in the busiest second"
    ]
    width_s = max(-(-(int(told.length_s) + 1) // BARS), 1)
    for number, rate in enumerate(rates):
        width = round(BAR_WIDTH * rate / max(rates))
        lines.append(f"{number * width_s:>10,} s {bar * width} {rate:,.3g}/s")
    return lines
