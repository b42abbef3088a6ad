"""The scene grammar of the sample world and its renderer: one coloured subject in one place, with nuisance.

A scene is drawn by `draw_scene` for a named stream ("train", "sample" or "evaluate"). The streams share the grammar
but no scene: a hash of the whole scene, its position and size included, says to which stream it belongs.
"""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from smp_ray.demo.places import BACKGROUNDS
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
    BACKGROUNDS[scene.place](canvas, rng, size)
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
