"""Pictures."""

import struct
import zlib

import pytest

from tidings.demo.picture import HEIGHT, WIDTH, draw


def pixels(png: bytes) -> bytes:
    """The lines of a PNG read by the letter of its specification, every checksum looked at."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    data, position, kinds = b"", 8, []
    while position < len(png):
        (length,) = struct.unpack(">I", png[position : position + 4])
        chunk = png[position + 4 : position + 8 + length]
        (crc,) = struct.unpack(">I", png[position + 8 + length : position + 12 + length])
        assert crc == zlib.crc32(chunk)
        kinds.append(chunk[:4])
        if chunk[:4] == b"IHDR":
            assert struct.unpack(">IIBBBBB", chunk[4:]) == (WIDTH, HEIGHT, 8, 2, 0, 0, 0)
        data += chunk[4:] if chunk[:4] == b"IDAT" else b""
        position += 12 + length
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    return zlib.decompress(data)


def test_a_picture_is_a_png_with_content() -> None:
    """The file is a PNG of the right size with many colours in it."""
    lines = pixels(draw("a cat in the rain"))
    assert len(lines) == HEIGHT * (3 * WIDTH + 1)
    rows = [lines[y * (3 * WIDTH + 1) + 1 : (y + 1) * (3 * WIDTH + 1)] for y in range(HEIGHT)]
    assert len({row[x : x + 3] for row in rows for x in range(0, 3 * WIDTH, 3)}) > 500


def test_the_prompt_decides() -> None:
    """One prompt always gives one picture, and two give two."""
    assert draw("a") == draw("a")
    assert draw("a") != draw("b")


@pytest.mark.parametrize("prompt", ["", "ü" * 1000, "\x00", "🦊"])
def test_any_prompt_can_be_drawn(prompt: str) -> None:
    """Odd prompts are drawn like others."""
    assert pixels(draw(prompt))


def test_it_sharpens_step_by_step() -> None:
    """Each step is nearer to the finished picture than the one before."""
    finished = pixels(draw("a cat"))
    distances = []
    for sharpness in (0.0, 0.3, 0.6, 0.9, 1.0):
        partial = pixels(draw("a cat", sharpness))
        distances.append(sum(abs(a - b) for a, b in zip(partial[::7], finished[::7], strict=True)))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] == 0
