"""The places of the sample world, as backgrounds drawn with a little chance in every picture."""

from collections.abc import Callable

import numpy as np
from PIL import ImageDraw


def _beach(canvas: ImageDraw.ImageDraw, rng: np.random.Generator, s: int) -> None:
    sea, sand = rng.uniform(0.25, 0.4) * s, rng.uniform(0.52, 0.68) * s
    canvas.rectangle((0, 0, s, sea), fill=(150, 212, 246))
    canvas.rectangle((0, sea, s, sand), fill=(42, 150, 190))
    canvas.rectangle((0, sand, s, s), fill=(238, 214, 160))
    for _ in range(5):
        x, y = rng.uniform(0, s), rng.uniform(sea, sand)
        canvas.line((x, y, x + 0.2 * s, y), fill=(200, 235, 245), width=2)


def _forest(canvas: ImageDraw.ImageDraw, rng: np.random.Generator, s: int) -> None:
    canvas.rectangle((0, 0, s, s), fill=(24, 68, 40))
    canvas.rectangle((0, 0.82 * s, s, s), fill=(58, 54, 30))
    for x in np.linspace(0, s, 8) + rng.uniform(-0.04, 0.04, 8) * s:
        width = rng.uniform(0.03, 0.06) * s
        canvas.rectangle((x, 0, x + width, 0.86 * s), fill=(84, 56, 34))
    for _ in range(7):
        x, r = rng.uniform(0, s), rng.uniform(0.06, 0.12) * s
        canvas.ellipse((x - r, -r, x + r, r * 1.4), fill=(36, 96, 48))


def _city(canvas: ImageDraw.ImageDraw, rng: np.random.Generator, s: int) -> None:
    canvas.rectangle((0, 0, s, s), fill=(176, 182, 190))
    canvas.rectangle((0, 0.85 * s, s, s), fill=(70, 70, 74))
    left = rng.uniform(-0.1, 0) * s
    while left < s:
        width, top, grey = rng.uniform(0.14, 0.22) * s, rng.uniform(0.05, 0.35) * s, int(rng.integers(96, 136))
        canvas.rectangle((left, top, left + width, 0.85 * s), fill=(grey, grey, grey + 8))
        for y in np.arange(top + 0.04 * s, 0.8 * s, 0.11 * s):
            for x in (left + 0.25 * width, left + 0.62 * width):
                canvas.rectangle((x, y, x + 0.035 * s, y + 0.05 * s), fill=(240, 226, 150))
        left += width + 0.02 * s


def _snow(canvas: ImageDraw.ImageDraw, rng: np.random.Generator, s: int) -> None:
    canvas.rectangle((0, 0, s, s), fill=(186, 206, 226))
    canvas.rectangle((0, 0.6 * s, s, s), fill=(232, 240, 248))
    for x in (rng.uniform(0, 0.4) * s, rng.uniform(0.5, 1.0) * s):
        top, half = rng.uniform(0.05, 0.2) * s, rng.uniform(0.3, 0.45) * s
        canvas.polygon([(x - half, 0.62 * s), (x, top), (x + half, 0.62 * s)], fill=(138, 156, 180))
        canvas.polygon([(x - half / 3, top + 0.17 * s), (x, top), (x + half / 3, top + 0.17 * s)], fill=(250, 252, 255))
    for x, y in rng.uniform(0, s, (24, 2)):
        canvas.ellipse((x, y, x + 2, y + 2), fill=(255, 255, 255))


def _desert(canvas: ImageDraw.ImageDraw, rng: np.random.Generator, s: int) -> None:
    canvas.rectangle((0, 0, s, s), fill=(252, 206, 128))
    x, r = rng.uniform(0.1, 0.9) * s, 0.08 * s
    canvas.ellipse((x - r, 0.04 * s, x + r, 0.04 * s + 2 * r), fill=(255, 246, 210))
    for level, fill in ((0.42, (222, 142, 66)), (0.62, (198, 114, 48)), (0.8, (172, 92, 38))):
        crest, top = rng.uniform(0.1, 0.9) * s, level * s
        canvas.polygon([(0, top + 0.12 * s), (crest, top), (s, top + 0.14 * s), (s, s), (0, s)], fill=fill)


def _meadow(canvas: ImageDraw.ImageDraw, rng: np.random.Generator, s: int) -> None:
    sky = rng.uniform(0.2, 0.36) * s
    canvas.rectangle((0, 0, s, sky), fill=(176, 222, 252))
    canvas.rectangle((0, sky, s, s), fill=(140, 204, 88))
    for x, y in np.column_stack([rng.uniform(0, s, 26), rng.uniform(sky, s, 26)]):
        canvas.line((x, y, x + 1, y - 0.05 * s), fill=(92, 160, 60), width=2)
    for x, y in np.column_stack([rng.uniform(0, s, 8), rng.uniform(sky, s, 8)]):
        canvas.ellipse((x, y, x + 3, y + 3), fill=(255, 250, 220))


def _room(canvas: ImageDraw.ImageDraw, rng: np.random.Generator, s: int) -> None:
    canvas.rectangle((0, 0, s, s), fill=(206, 190, 206))
    step = rng.uniform(0.1, 0.14) * s
    for x in np.arange(rng.uniform(0, step), s, step):
        canvas.rectangle((x, 0, x + step * 0.4, s), fill=(184, 164, 188))
    floor = rng.uniform(0.7, 0.8) * s
    canvas.rectangle((0, floor, s, s), fill=(126, 82, 56))
    for y in np.arange(floor, s, 0.06 * s):
        canvas.line((0, y, s, y), fill=(98, 62, 42), width=1)


BACKGROUNDS: dict[str, Callable[[ImageDraw.ImageDraw, np.random.Generator, int], None]] = {
    "beach": _beach,
    "forest": _forest,
    "city": _city,
    "snow": _snow,
    "desert": _desert,
    "meadow": _meadow,
    "room": _room,
}
"""Place to the function that paints it: on a canvas, with a random generator, for a square of so many pixels."""
