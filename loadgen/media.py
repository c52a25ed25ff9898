"""Files of images, told by how they begin."""

from typing import Final

MAGIC: Final = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
"""How files of images begin, and what they are called."""


def image_type(beginning: bytes) -> str | None:
    """The media type of an image file by its first 12 bytes; None if it is none that models take."""
    for magic, kind in MAGIC.items():
        if beginning.startswith(magic) and (kind != "image/webp" or beginning[8:12] == b"WEBP"):
            return kind
    return None
