"""Pictures: a landscape that its prompt decides, sharpening out of noise step by step, as PNG.

Pure.
"""

import colorsys
import math
import random
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 384, 288

Colour = tuple[float, float, float]
"""Red, green, blue, 0 to 1."""


class Ring(NamedTuple):
    """A disc of the sun's light."""

    reach: float
    """Its radius in pixels."""
    shifts: list[bytes]
    """Per channel, what each value of the sky becomes."""


_BLOCKS = (48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
"""Sizes of the mosaic's stones from the first step to the last.

All divide the width, or the last column is cut.
"""


def draw(prompt: str, sharpness: float = 1.0, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A PNG of the prompt's picture.

    Args:
        prompt: Decides the picture; the same prompt gives the same bytes.
        sharpness: From 0 (noise in large stones) to 1 (the finished picture).
        width: In pixels.
        height: In pixels.
    """
    chance = random.Random(prompt)  # noqa: S311 - a picture, not a secret
    planes = _landscape(chance, width, height)
    sharpness = min(1.0, max(0.0, sharpness))
    if sharpness < 1:
        block = _BLOCKS[int(sharpness * (len(_BLOCKS) - 1))]
        planes = [
            _noisy(plane, random.Random(f"{prompt}{sharpness}{n}"), sharpness)  # noqa: S311
            for n, plane in enumerate(planes)
        ]
    else:
        block = 1
    return encode([_rows(plane, width, height, block) for plane in planes], width, height)


def encode(channels: Sequence[Sequence[bytes]], width: int, height: int) -> bytes:
    """A PNG (8 bits, RGB) of three channels, each a row of bytes per line.

    Format: PNG specification, clause 11.
    """
    lines = bytearray()
    for y in range(height):
        line = bytearray(3 * width)
        for offset, rows in enumerate(channels):
            line[offset::3] = rows[y]
        lines += b"\0" + line  # filter 0: as it is
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(lines), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _landscape(chance: random.Random, width: int, height: int) -> list[bytes]:
    """Sky, a sun with its glow, and ranges of hills: three planes, column after column.

    Column by column because a column is slices of a few gradients, made once: 30 ms a picture,
    if single pixels would take a second.
    """
    hue = chance.random()
    zenith, horizon = _colour(hue, 0.75, 0.35), _colour(hue + chance.uniform(0.05, 0.18), 0.45, 1.0)
    sky = _gradient(zenith, horizon, height)
    sun_x, sun_y = chance.uniform(0.2, 0.8) * width, chance.uniform(0.2, 0.5) * height
    glow = _glow(
        _colour(hue + chance.uniform(0.1, 0.5), 0.18, 1.0), chance.uniform(0.06, 0.12) * width
    )
    ranges = _ranges(chance, hue, width, height, horizon)
    planes = [bytearray() for _ in range(3)]
    for x in range(width):
        column = _sunlit(sky, glow, x - sun_x, sun_y, height)
        for ridge, ground in ranges:
            top = ridge[x]
            column = [
                above[:top] + below[top:] for above, below in zip(column, ground, strict=True)
            ]
        for plane, part in zip(planes, column, strict=True):
            plane += part
    return [bytes(plane) for plane in planes]


def _ranges(
    chance: random.Random, hue: float, width: int, height: int, haze: Colour
) -> list[tuple[list[int], list[bytes]]]:
    count = chance.randint(3, 6)
    ranges = []
    for number in range(count):
        near = (number + 1) / count
        base = height * (0.45 + 0.42 * near)
        waves = [
            (chance.uniform(0.4, 1) / f, f * chance.uniform(1, 3), chance.random() * 7)
            for f in (1, 2, 4, 9)
        ]
        swing = height * 0.09 * (1.2 - 0.5 * near)
        ridge = [
            round(base - swing * sum(a * math.sin(f * 6.283 * x / width + p) for a, f, p in waves))
            for x in range(width)
        ]
        ridge = [min(height, max(0, top)) for top in ridge]
        dark = _colour(hue + 0.05 * number, 0.65, 0.42 - 0.32 * near)
        crest = _mix(haze, dark, 0.35 + 0.55 * near)
        ranges.append((ridge, _gradient(crest, _mix(crest, dark, 0.9), height)))
    return ranges


def _sunlit(
    sky: list[bytes], glow: list[Ring], x: float, centre_y: float, height: int
) -> list[bytes]:
    """A column of the sky, `x` from the sun's centre."""
    if x * x >= glow[0].reach ** 2:
        return sky
    column = [bytearray(part) for part in sky]
    for ring in glow:
        inside = ring.reach**2 - x * x
        if inside <= 0:
            break
        half = math.sqrt(inside)
        top, bottom = max(0, round(centre_y - half)), min(height, round(centre_y + half))
        for part, shift in zip(column, ring.shifts, strict=True):
            part[top:bottom] = part[top:bottom].translate(shift)
    return [bytes(part) for part in column]


def _glow(light: Colour, radius: float) -> list[Ring]:
    """The sun's discs, from the faintest and widest glow inwards to the sun itself."""
    rings = []
    for number in range(9, -1, -1):
        share = 0.12 if number else 1.0
        shifts = [
            bytes(
                min(255, round(value * (1 - share) + 255 * colour * share)) for value in range(256)
            )
            for colour in light
        ]
        rings.append(Ring(radius * (1 + 0.28 * number), shifts))
    return rings


def _noisy(plane: bytes, chance: random.Random, sharpness: float) -> bytes:
    share = sharpness**0.7
    kept = plane.translate(bytes(int(value * share) for value in range(256)))
    noise = chance.randbytes(len(plane)).translate(
        bytes(int(value * (1 - share)) for value in range(256))
    )
    # Both shares add up to 255 at most, so one addition of two long numbers adds every byte without
    # a carry.
    return (int.from_bytes(kept) + int.from_bytes(noise)).to_bytes(len(plane))


def _rows(plane: bytes, width: int, height: int, block: int) -> list[bytes]:
    """Lines out of columns, each stone of the mosaic in the colour of its first pixel."""
    rows: list[bytes] = []
    for y in range(0, height, block):
        row = plane[y::height]
        if block > 1:
            row = b"".join(row[x : x + 1] * block for x in range(0, width, block))[:width]
        rows += [row] * block
    return rows[:height]


def _gradient(top: Colour, bottom: Colour, height: int) -> list[bytes]:
    shares = [y / (height - 1) for y in range(height)]
    return [
        bytes(round(255 * (a + (b - a) * share)) for share in shares)
        for a, b in zip(top, bottom, strict=True)
    ]


def _colour(hue: float, saturation: float, value: float) -> Colour:
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, max(0.0, value))


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (a + (b - a) * share for a, b in zip(one, other, strict=True))
    return red, green, blue
