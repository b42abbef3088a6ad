"""The scene grammar of the sample world and its renderer: one coloured subject in one place, with nuisance.

A scene is drawn by `draw_scene` for a named stream ("train", "sample" or "evaluate"). The streams share the grammar
but no scene: a hash of the whole scene, its position and size included, says to which stream it belongs.
"""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from smp_ray.demo.subjects import SUBJECT_SHAPES

SUBJECTS: tuple[str, ...] = tuple(SUBJECT_SHAPES)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 28, 34),
    "yellow": (250, 222, 30),
    "green": (30, 158, 62),
    "blue": (32, 88, 222),
    "purple": (124, 44, 168),
    "pink": (255, 138, 196),
    "white": (248, 248, 248),
    "black": (22, 22, 24),
}
PLACES: dict[str, str] = {
    "beach": "on a beach",
    "forest": "in a forest",
    "city": "in a city",
    "snow": "in the snow",
    "desert": "in a desert",
    "meadow": "in a meadow",
    "room": "in a room",
}
"""Place to the phrase that names it in a caption."""

STREAM_SHARES: dict[str, float] = {"train": 0.6, "sample": 0.3, "evaluate": 0.1}
"""Share of all scenes (and of all titles) that belongs to each stream; no scene or title belongs to two."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows. Position is the subject's centre, size its extent, both as fractions of the frame."""

    subject: str
    colour: str
    place: str
    position: tuple[float, float]
    size: float
    clutter: int

    def caption(self) -> str:
        """The canonical description: names colour, subject and place, leaves position, size and clutter out."""
        return f"a {self.colour} {self.subject} {PLACES[self.place]}"

    def as_dict(self) -> dict[str, Any]:
        """The scene as JSON-ready values, for the truth file."""
        return {**asdict(self), "position": list(self.position), "caption": self.caption()}


def stream_of(text: str) -> str:
    """The one stream that owns `text` (a scene's representation or a title), by a hash that never changes."""
    draw = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    for stream, share in STREAM_SHARES.items():
        if draw < share:
            return stream
        draw -= share
    return "evaluate"


def stream_rng(stream: str, seed: int, *keys: int) -> np.random.Generator:
    """A random generator of its own for each (stream, seed, keys); the stream's name is hashed into the seed."""
    name = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:4], "big")
    return np.random.default_rng([name, seed, *keys])


def draw_scene(rng: np.random.Generator, stream: str, **fixed: str) -> Scene:
    """A random scene that belongs to `stream`; `fixed` sets subject, colour or place and leaves the rest to chance."""
    while True:
        size = round(float(rng.uniform(0.5, 0.75)), 3)
        low, high = size / 2, 1 - size / 2
        scene = Scene(
            subject=fixed.get("subject") or SUBJECTS[rng.integers(len(SUBJECTS))],
            colour=fixed.get("colour") or tuple(COLOURS)[rng.integers(len(COLOURS))],
            place=fixed.get("place") or tuple(PLACES)[rng.integers(len(PLACES))],
            position=(round(float(rng.uniform(low, high)), 3), round(float(rng.uniform(low, high)), 3)),
            size=size,
            clutter=int(rng.integers(5)),
        )
        if stream_of(repr(scene)) == stream:
            return scene


def render(scene: Scene, rng: np.random.Generator, size: int = 128) -> Image.Image:
    """The scene as an RGB photograph of `size` x `size` pixels, with random lighting, mirror image, tilt and grain."""
    image = Image.new("RGB", (size, size))
    canvas = ImageDraw.Draw(image)
    _BACKGROUNDS[scene.place](canvas, rng, size)
    _draw_clutter(canvas, rng, size, scene.clutter)
    _draw_subject(canvas, scene, rng, size)
    light = rng.uniform(0.86, 1.12) * rng.uniform(0.96, 1.04, 3)
    grain = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(rng.uniform(2, 7))
    pixels = np.asarray(image, dtype=np.float32) * light.astype(np.float32) + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _draw_subject(canvas: ImageDraw.ImageDraw, scene: Scene, rng: np.random.Generator, size: int) -> None:
    """Draw the subject's outline first, so that it stands out even from a background of its own colour."""
    angle, mirror = rng.uniform(-0.12, 0.12), rng.choice((-1.0, 1.0))
    half = scene.size * size / 2
    turn = half * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = np.array(scene.position) * size
    parts = [
        (kind, shade, [tuple(p) for p in (points * (mirror, 1.0)) @ turn + centre], width * half)
        for kind, shade, points, width in SUBJECT_SHAPES[scene.subject]
    ]
    edge = (235, 235, 235) if scene.colour == "black" else (18, 18, 18)
    rim = max(2, round(size * 0.024))
    for kind, _, points, width in parts:
        if kind == "line":
            canvas.line(points, fill=edge, width=round(width) + rim, joint="curve")
        else:
            canvas.line([*points, points[0], points[1]], fill=edge, width=rim * 2, joint="curve")
    colour = np.array(COLOURS[scene.colour])
    for kind, shade, points, width in parts:
        # A shade below 1 darkens a detail; black has nothing darker, so its details are lightened instead.
        tone = colour * shade if scene.colour != "black" else colour + (1 - shade) * 150
        fill = tuple(int(v) for v in tone)
        if kind == "line":
            canvas.line(points, fill=fill, width=max(2, round(width)), joint="curve")
        else:
            canvas.polygon(points, fill=fill)


def _draw_clutter(canvas: ImageDraw.ImageDraw, rng: np.random.Generator, size: int, count: int) -> None:
    """Small discs, squares and strokes of any colour: too small to be taken for a subject."""
    palette = tuple(COLOURS.values())
    for _ in range(count):
        x, y = rng.uniform(0, size, 2)
        r = rng.uniform(0.02, 0.045) * size
        fill = palette[rng.integers(len(palette))]
        match rng.integers(3):
            case 0:
                canvas.ellipse((x - r, y - r, x + r, y + r), fill=fill)
            case 1:
                canvas.rectangle((x - r, y - r, x + r, y + r), fill=fill)
            case _:
                canvas.line((x - r, y - r, x + r, y + r), fill=fill, width=2)


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


_BACKGROUNDS = {
    "beach": _beach,
    "forest": _forest,
    "city": _city,
    "snow": _snow,
    "desert": _desert,
    "meadow": _meadow,
    "room": _room,
}
