"""A table in the style of all, which loses nothing where the terminal is too narrow for it.

It is then shown in parts, one below the other: in each its first columns, which say what a row is about, and as many of the
others as there is room for.
"""

from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text


class Columns(Table):
    """A rich table; `keys` of its columns stand in every part. `padding` comes on top of the one space between columns."""

    def __init__(self, padding: int = 1, keys: int = 1) -> None:
        super().__init__(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, padding, 0, 0), show_edge=False)
        self.keys = keys

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, columns in enumerate(self.parts(options.max_width)):
            if number:
                yield Text()
            yield from self._of(columns).__rich_console__(console, options)

    def parts(self, width: int) -> Iterator[list[Column]]:
        """The columns of each part."""
        keys, others = self.columns[: self.keys], self.columns[self.keys :]
        room = width + 1 - sum(self._least_width(column) for column in keys)  # nothing parts the last one from the edge
        part: list[Column] = []
        left = room
        for column in others:
            if part and self._least_width(column) > left:
                yield [*keys, *part]
                part, left = [], room
            part.append(column)
            left -= self._least_width(column)
        yield [*keys, *part]

    def _least_width(self, column: Column) -> int:
        """With the space behind it. What may be folded takes as much as its longest word, or what it is limited to."""
        texts = [Text.from_markup(one) if isinstance(one, str) else one for one in (column.header, *column.cells)]
        pieces = [piece for text in texts if isinstance(text, Text) for piece in _pieces(text.plain, column)]
        widest = max(map(cell_len, pieces), default=0)
        return min(widest, column.max_width or widest) + self.padding[1] + 1

    def _of(self, columns: Sequence[Column]) -> Table:
        part = Table(box=self.box, pad_edge=False, padding=self.padding, show_edge=False)
        for column in columns:
            part.add_column(
                column.header,
                justify=column.justify,
                no_wrap=column.no_wrap,
                overflow=column.overflow,
                max_width=column.max_width,
            )
        for cells in zip(*(column.cells for column in columns), strict=True):
            part.add_row(*cells)
        return part


def _pieces(words: str, column: Column) -> list[str]:
    """What cannot be broken."""
    return words.splitlines() if column.no_wrap else words.split()
