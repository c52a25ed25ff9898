"""Made-up images are what they say they are, read by a decoder written here."""

import base64
import random
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import UsageError
from loadgen.workload.images import SQUARE, png, url_of


def decoded(data: bytes) -> tuple[int, int, list[bytes]]:
    """(width, height, rows of RGB) of a PNG as this module writes it; every checksum is tried."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, {}
    while at < len(data):
        (n_bytes,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + n_bytes]
        assert struct.unpack_from(">I", data, at + 8 + n_bytes)[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + n_bytes
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour, methods) == (4, 3, [0, 0, 0])
    palette = [chunks[b"PLTE"][i : i + 3] for i in range(0, 48, 3)]
    n_bytes = -(-width // 2)
    raw = zlib.decompress(chunks[b"IDAT"])
    assert len(raw) == height * (1 + n_bytes)
    rows: list[bytes] = []
    above = bytes(n_bytes)
    for i in range(0, len(raw), 1 + n_bytes):
        line = raw[i + 1 : i + 1 + n_bytes]
        if raw[i] == 2:  # each byte less that above it
            line = bytes((a + b) % 256 for a, b in zip(line, above, strict=True))
        else:
            assert raw[i] == 0
        above = line
        pixels = [half for byte in line for half in (byte >> 4, byte & 15)][:width]
        rows.append(b"".join(palette[pixel] for pixel in pixels))
    return width, height, rows


@given(width=st.integers(1, 100), height=st.integers(1, 100), seed=st.integers(0, 9))
def test_an_image_has_the_size_that_was_asked_for_and_squares(width, height, seed):
    made_width, made_height, rows = decoded(png(width, height, random.Random(seed)))
    assert (made_width, made_height) == (width, height)
    for y in range(height):
        assert rows[y] == rows[y - y % SQUARE]
        assert rows[y][:3] == rows[y][3 * min(SQUARE - 1, width - 1) :][:3]


def test_no_two_are_alike_and_a_seed_gives_the_same():
    randomness = random.Random(1)
    one, other = png(64, 64, randomness), png(64, 64, randomness)
    assert one != other
    assert png(64, 64, random.Random(1)) == one
    assert len(png(1024, 1024, randomness)) < 20_000


def test_an_image_is_a_data_url(tmp_path):
    url = url_of("8x9", random.Random(1))
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    assert decoded(base64.b64decode(data))[:2] == (8, 9)
    file = tmp_path / "a.gif"
    file.write_bytes(b"GIF89a...")
    assert url_of(str(file), random.Random(1)) == "data:image/gif;base64," + base64.b64encode(b"GIF89a...").decode()
    assert url_of("https://h/8x9", random.Random(1)) == "https://h/8x9"


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(UsageError, match=r"^--image: '.*a.png' is no image that models take; allowed are PNG, JPEG"):
        url_of(str(tmp_path / "a.png"), random.Random(1))
    with pytest.raises(UsageError, match=r"^--image: '/no/such' cannot be read \(No such file or directory\)$"):
        url_of("/no/such", random.Random(1))
