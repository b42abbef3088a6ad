"""The outlines of the sample world's subjects, as filled polygons and strokes drawn for this project.

Coordinates lie in [-1, 1] with x to the right and y downwards; a shade below 1 marks a darker detail.
"""

import numpy as np
from numpy.typing import NDArray

Part = tuple[str, float, NDArray[np.float64], float]
"""Kind ("fill" or "line"), shade, points (n, 2), stroke width as a fraction of half the subject's size."""


def _fill(*points: tuple[float, float], shade: float = 1.0) -> Part:
    return ("fill", shade, np.array(points, dtype=float), 0.0)


def _disc(x: float, y: float, rx: float, ry: float | None = None, shade: float = 1.0, arc: float = 1.0) -> Part:
    """An ellipse around (x, y); `arc` 0.5 leaves its upper half."""
    angle = np.pi + np.linspace(0, 2 * np.pi * arc, 22, endpoint=arc < 1)
    points = np.column_stack([x + rx * np.cos(angle), y + (ry or rx) * np.sin(angle)])
    return ("fill", shade, points, 0.0)


def _line(*points: tuple[float, float], width: float = 0.14, shade: float = 1.0) -> Part:
    return ("line", shade, np.array(points, dtype=float), width)


def _ring(x: float, y: float, r: float, width: float) -> Part:
    angle = np.linspace(0, 2 * np.pi, 22)
    return ("line", 1.0, np.column_stack([x + r * np.cos(angle), y + r * np.sin(angle)]), width)


SUBJECT_SHAPES: dict[str, tuple[Part, ...]] = {
    "bicycle": (
        _ring(-0.58, 0.4, 0.38, 0.16),
        _ring(0.58, 0.4, 0.38, 0.16),
        _line((-0.58, 0.4), (-0.2, -0.25), (0.4, -0.25), (0.05, 0.4), (-0.58, 0.4)),
        _line((0.58, 0.4), (0.35, -0.55), (0.62, -0.62)),
        _line((-0.4, -0.42), (-0.08, -0.42), width=0.18),
    ),
    "car": (
        _fill((-1, 0.05), (-0.62, -0.02), (-0.36, -0.5), (0.4, -0.5), (0.66, -0.02), (1, 0.1), (1, 0.45), (-1, 0.45)),
        _fill((-0.46, -0.02), (-0.28, -0.36), (0.0, -0.36), (0.0, -0.02), shade=0.5),
        _fill((0.1, -0.02), (0.1, -0.36), (0.32, -0.36), (0.5, -0.02), shade=0.5),
        _disc(-0.52, 0.46, 0.24, shade=0.35),
        _disc(0.52, 0.46, 0.24, shade=0.35),
    ),
    "boat": (
        _fill((-0.95, 0.35), (0.95, 0.35), (0.6, 0.85), (-0.6, 0.85)),
        _line((0, 0.35), (0, -0.98), width=0.1),
        _fill((0.1, -0.92), (0.8, 0.2), (0.1, 0.2)),
        _fill((-0.1, -0.7), (-0.62, 0.2), (-0.1, 0.2), shade=0.75),
    ),
    "house": (
        _fill((-0.72, -0.1), (0.72, -0.1), (0.72, 0.9), (-0.72, 0.9)),
        _fill((-1, -0.1), (0, -0.95), (1, -0.1), shade=0.7),
        _fill((-0.18, 0.9), (-0.18, 0.35), (0.18, 0.35), (0.18, 0.9), shade=0.4),
        _fill((0.34, 0.1), (0.6, 0.1), (0.6, 0.38), (0.34, 0.38), shade=0.4),
    ),
    "tree": (
        _fill((-0.14, 0.2), (0.14, 0.2), (0.2, 0.98), (-0.2, 0.98), shade=0.6),
        _disc(-0.4, 0.0, 0.46),
        _disc(0.4, 0.0, 0.46),
        _disc(0, -0.46, 0.5),
    ),
    "cat": (
        _fill((-0.7, -0.2), (-0.66, -0.95), (-0.15, -0.5)),
        _fill((0.7, -0.2), (0.66, -0.95), (0.15, -0.5)),
        _disc(0, 0.12, 0.8, 0.68),
        _disc(-0.32, 0.0, 0.12, 0.17, shade=0.2),
        _disc(0.32, 0.0, 0.12, 0.17, shade=0.2),
        _line((-0.95, 0.22), (-0.3, 0.32), width=0.05, shade=0.3),
        _line((0.95, 0.22), (0.3, 0.32), width=0.05, shade=0.3),
    ),
    "bird": (
        _disc(-0.05, 0.15, 0.55, 0.36),
        _disc(0.48, -0.25, 0.27),
        _fill((0.7, -0.35), (1.0, -0.2), (0.7, -0.1), shade=0.6),
        _fill((-0.5, 0.05), (-1.0, -0.1), (-0.95, 0.4), (-0.5, 0.3)),
        _fill((-0.3, 0.1), (0.3, 0.1), (-0.35, -0.75), shade=0.75),
        _line((-0.1, 0.5), (-0.1, 0.85), width=0.08),
        _line((0.15, 0.5), (0.15, 0.85), width=0.08),
    ),
    "fish": (
        _disc(0.15, 0, 0.75, 0.46),
        _fill((-0.45, 0), (-1, -0.5), (-1, 0.5)),
        _fill((0, -0.4), (0.4, -0.72), (0.45, -0.35), shade=0.75),
        _disc(0.55, -0.1, 0.1, shade=0.2),
    ),
    "flower": (
        _line((0, 0), (0, 0.98), width=0.14, shade=0.7),
        *(_disc(0.42 * np.cos(a), -0.35 + 0.42 * np.sin(a), 0.3) for a in np.arange(6) * np.pi / 3),
        _disc(0, -0.35, 0.22, shade=0.45),
    ),
    "cup": (
        _ring(0.6, 0.0, 0.32, 0.16),
        _fill((-0.7, -0.6), (0.55, -0.6), (0.4, 0.75), (-0.55, 0.75)),
        _disc(-0.07, -0.6, 0.62, 0.16, shade=0.55),
    ),
    "guitar": (
        _fill((-0.11, -0.2), (-0.11, -0.8), (0.11, -0.8), (0.11, -0.2)),
        _fill((-0.2, -0.74), (-0.2, -1.0), (0.2, -1.0), (0.2, -0.74), shade=0.7),
        _disc(0, 0.08, 0.38, 0.34),
        _disc(0, 0.56, 0.56, 0.44),
        _disc(0, 0.36, 0.17, shade=0.25),
    ),
    "umbrella": (
        _disc(0, 0.05, 0.98, 0.85, arc=0.5),
        _line((0, 0), (0, 0.82), (0.14, 0.93), (0.28, 0.82), width=0.12, shade=0.8),
        _line((-0.4, 0.02), (0, -0.76), (0.4, 0.02), width=0.05, shade=0.5),
    ),
    "balloon": (
        _line((0, 0.4), (0.1, 0.7), (-0.06, 0.98), width=0.08),
        _disc(0, -0.3, 0.6, 0.7),
        _fill((-0.14, 0.5), (0.14, 0.5), (0, 0.32), shade=0.7),
    ),
    "butterfly": (
        _fill((0, -0.1), (-0.95, -0.8), (-0.9, 0.0), (-0.5, 0.1)),
        _fill((0, -0.1), (0.95, -0.8), (0.9, 0.0), (0.5, 0.1)),
        _fill((0, 0), (-0.65, 0.15), (-0.6, 0.8), (-0.2, 0.6), shade=0.75),
        _fill((0, 0), (0.65, 0.15), (0.6, 0.8), (0.2, 0.6), shade=0.75),
        _disc(0, 0, 0.1, 0.55, shade=0.3),
    ),
    "chair": (
        _fill((-0.6, -0.95), (-0.34, -0.95), (-0.34, 0.1), (-0.6, 0.1)),
        _fill((-0.6, 0.0), (0.65, 0.0), (0.65, 0.26), (-0.6, 0.26)),
        _line((-0.5, 0.2), (-0.5, 0.95), width=0.16),
        _line((0.55, 0.2), (0.55, 0.95), width=0.16),
    ),
    "kite": (
        _fill((0.2, -0.98), (0.75, -0.35), (0.2, 0.4), (-0.35, -0.35)),
        _line((0.2, -0.98), (0.2, 0.4), width=0.06, shade=0.5),
        _line((-0.35, -0.35), (0.75, -0.35), width=0.06, shade=0.5),
        _line((0.2, 0.4), (-0.1, 0.6), (0.05, 0.78), (-0.35, 0.95), width=0.1),
    ),
}
