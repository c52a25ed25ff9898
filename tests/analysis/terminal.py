"""What a terminal shows of a table."""

from rich.console import Console


def shown(renderable: object, width: int = 80) -> str:
    """Its lines, without colours."""
    console = Console(width=width, file=None, record=True, force_terminal=False)
    with console.capture() as caught:
        console.print(renderable)
    return caught.get()
