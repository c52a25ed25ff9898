"""What a file of prompts or a trace holds: counts, lengths, sessions, rate, shared prefixes, and the lines that are none."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from loadgen.tokens import Tokenizer
from loadgen.workload import formats, traces
from loadgen.workload.containers import BadLine, OnBad
from loadgen.workload.formats.row import Reading, Row
from loadgen.workload.formats.values import NS_PER_S
from loadgen.workload.traces import Course, Played

CHARACTERS_A_TOKEN: Final = 4
"""Where there is no tokenizer."""

MOST_BLOCKS: Final = 1_000_000
"""Prefix blocks that are told apart; behind them sharing is not counted any more."""

MOST_PROBLEMS: Final = 20
"""Bad lines that are named."""

PERCENTILES: Final = (0, 1, 25, 50, 75, 90, 99, 100)


@dataclass(slots=True)
class Lengths:
    """A distribution of lengths, each value with its count."""

    counts: Counter[int] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.counts.total()

    @property
    def mean(self) -> float:
        return sum(value * count for value, count in self.counts.items()) / max(self.total, 1)

    def percentile(self, percentile: float) -> int | None:
        """The smallest value that so many percent do not exceed; None without values."""
        wanted, seen = self.total * percentile / 100, 0
        for value in sorted(self.counts):
            seen += self.counts[value]
            if seen >= wanted:
                return value
        return None

    def to_json(self) -> dict[str, Any] | None:
        """Count, mean, percentiles; None without values."""
        if not self.counts:
            return None
        return {
            "count": self.total,
            "mean": round(self.mean, 3),
            **{f"p{percentile}": self.percentile(percentile) for percentile in PERCENTILES},
        }


@dataclass(slots=True)
class Survey:
    """What was seen; `add` is the only way in."""

    how: Reading
    tokenizer: Tokenizer | None = None
    units: int = 0
    requests: int = 0
    input_tokens: Lengths = field(default_factory=Lengths)
    output_tokens: Lengths = field(default_factory=Lengths)
    turns: Lengths = field(default_factory=Lengths)
    """Of the sessions of a trace and the conversations of a data set."""
    by_second: Counter[int] = field(default_factory=Counter)
    last_ns: int = 0
    tokens_are_estimates: bool = False
    prefix_tokens: int = 0
    shared_tokens: int = 0
    """Of prompts in blocks: those of leading blocks that an earlier prompt began with, too."""
    prefixes_of: int = 0
    """Requests that these are of."""
    bad_lines: int = 0
    problems: list[str] = field(default_factory=list)
    images: int = 0
    tools: int = 0
    _blocks: set[int] = field(default_factory=set)
    _sessions: Counter[int] = field(default_factory=Counter)

    def bad(self, bad: BadLine) -> None:
        """A line that cannot be used."""
        self.bad_lines += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(str(bad))

    def add(self, row: Row, due_ns: int | None = None, session: int | None = None) -> None:
        """One row."""
        self.units += 1
        self.requests += len(row.turns)
        said = self._length(row.system) if row.system else 0
        for turn in row.turns:
            self.images += len(turn.images)
            self.tools += bool(turn.tools)
            if turn.input_tokens is not None:
                self.input_tokens.counts[turn.input_tokens] += 1
            else:
                words = turn.prompt if turn.prompt is not None else _spoken(turn.messages)
                said += self._length(words)
                self.input_tokens.counts[said] += 1
                said += self._length(turn.answer) if turn.answer else 0
            if turn.output_tokens is not None:
                self.output_tokens.counts[turn.output_tokens] += 1
            elif turn.answer:
                self.output_tokens.counts[self._length(turn.answer)] += 1
        if due_ns is not None:
            self.by_second[due_ns // NS_PER_S] += 1
            self.last_ns = max(self.last_ns, due_ns)
        if session is not None:
            self._sessions[session] += 1
        elif due_ns is None and self.how.format == "sharegpt":
            self.turns.counts[len(row.turns)] += 1
        if row.hash_ids and len(self._blocks) < MOST_BLOCKS:
            self._add_blocks(row)

    def close(self) -> "Survey":
        """Everything has been added."""
        self.turns.counts.update(self._sessions.values())
        return self

    def _add_blocks(self, row: Row) -> None:
        self.prefixes_of += 1
        tokens = row.turns[0].input_tokens or 0
        shared = 0
        for hash_id in row.hash_ids:
            if hash_id not in self._blocks:
                break
            shared += 1
        self.shared_tokens += min(shared * row.block_tokens, tokens)
        self.prefix_tokens += tokens
        self._blocks.update(row.hash_ids)

    def _length(self, text: str) -> int:
        if self.tokenizer is not None:
            return self.tokenizer.count(text)
        self.tokens_are_estimates = True
        return -(-len(text) // CHARACTERS_A_TOKEN)

    @property
    def length_s(self) -> float:
        """Of a trace."""
        return self.last_ns / NS_PER_S

    def rates(self, bins: int) -> list[float]:
        """Arrivals a second in so many equal parts of the trace's time."""
        if not self.by_second:
            return []
        width_s = max(-(-(self.last_ns // NS_PER_S + 1) // bins), 1)
        sums = [0] * (self.last_ns // NS_PER_S // width_s + 1)
        for second, count in self.by_second.items():
            sums[second // width_s] += count
        return [count / width_s for count in sums]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "file": self.how.path,
            "format": self.how.format,
            "container": self.how.container,
            "columns": dict(self.how.columns),
            "units": self.units,
            "requests": self.requests,
            "input_tokens": self.input_tokens.to_json(),
            "output_tokens": self.output_tokens.to_json(),
            "tokens_are_estimates": self.tokens_are_estimates,
            "turns": self.turns.to_json(),
            "images": self.images,
            "with_tools": self.tools,
            "length_s": round(self.length_s, 6) if self.by_second else None,
            "rate_per_s": round(self.units / self.length_s, 6) if self.length_s else None,
            "rates_per_s": [round(rate, 6) for rate in self.rates(60)],
            "shared_prefix_share": round(self.shared_tokens / self.prefix_tokens, 6) if self.prefix_tokens else None,
            "shared_prefix_of": self.prefixes_of or None,
            "bad_lines": self.bad_lines,
            "problems": self.problems,
        }


def survey(
    how: Reading,
    *,
    course: Course | None = None,
    seed: int = 0,
    tokenizer: Tokenizer | None = None,
    on_bad: OnBad | None = None,
    most_rows: int | None = None,
) -> Survey:
    """Read a file through (or its first `most_rows`), as it would be asked or played."""
    found = Survey(how, tokenizer)
    note = on_bad or found.bad
    for number, (row, due_ns, session) in enumerate(_rows(how, course, seed, note)):
        if number == most_rows:
            break
        found.add(row, due_ns, session)
    return found.close()


def _rows(
    how: Reading, course: Course | None, seed: int, on_bad: OnBad
) -> Iterator[tuple[Row, int | None, int | None]]:
    if not how.has_times:
        for row in formats.rows(how, on_bad):
            yield row, None, None
        return
    played: Played
    for played in traces.play(how, course or Course(), seed, on_bad):
        yield played.row, played.due_ns, played.session


def _spoken(messages: tuple[dict[str, Any], ...]) -> str:
    parts: list[str] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            parts.append(content)
        elif isinstance(content, list):
            parts += [str(part.get("text", "")) for part in content if isinstance(part, dict)]
    return "\n".join(parts)
