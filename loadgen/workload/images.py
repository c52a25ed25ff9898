"""Images for prompts, as data: URLs: made up ones of a given size, or files.

A made-up image is a PNG of coloured squares, another one each time: what a vision model does with it depends on its
size alone, squares compress to some KB, and no two are alike, so no cache of images has seen them.
"""

import base64
import random
import struct
import zlib
from functools import lru_cache
from typing import Final

from loadgen.errors import UsageError
from loadgen.media import image_type

SQUARE: Final = 32
"""Pixels a side; even."""

_TWICE: Final = [bytes([17 * colour]) for colour in range(16)]
"""Two pixels of each colour of the palette."""


def url_of(image: str, randomness: random.Random) -> str:
    """The URL of an image as --image takes it: WIDTHxHEIGHT, a file, or a URL. UsageError if the file cannot be read."""
    if image.startswith(("http://", "https://")):
        return image
    width, times, height = image.partition("x")
    if times and width.isdigit() and height.isdigit():
        return _data_url("image/png", png(int(width), int(height), randomness))
    return _url_of_file(image)


def png(width: int, height: int, randomness: random.Random) -> bytes:
    """A PNG (16 colours out of a palette) of squares in random colours.

    Half a byte a pixel, and every line but the first of a square written as "as above": made in ms, whatever the size.
    """
    across, down = -(-width // SQUARE), -(-height // SQUARE)
    line_bytes = -(-width // 2)
    as_above = b"\2" + bytes(line_bytes)
    rows = bytearray()
    for row in range(down):
        colours = randomness.choices(_TWICE, k=across)
        rows += b"\0" + b"".join([twice * (SQUARE // 2) for twice in colours])[:line_bytes]
        rows += as_above * (min(SQUARE, height - row * SQUARE) - 1)
    header = struct.pack(">IIBBBBB", width, height, 4, 3, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", randomness.randbytes(3 * len(_TWICE))),
        (b"IDAT", zlib.compress(bytes(rows), 1)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@lru_cache(maxsize=64)  # a data set may name any number of them
def _url_of_file(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UsageError(f"--image: {path!r} cannot be read ({error.strerror})") from None
    kind = image_type(data[:12])
    if kind is None:
        raise UsageError(f"--image: {path!r} is no image that models take; allowed are PNG, JPEG, GIF and WebP")
    return _data_url(kind, data)


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
