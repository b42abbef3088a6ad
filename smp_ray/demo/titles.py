"""The titles of the sample world: four kinds, each drawn by a small grammar, each owned by one stream.

A title carries how good its text is and how far it disagrees with its picture; both are truth, kept for tests and for
the popularity formula of `smp_ray.demo.world`. Templates never yield the canonical caption itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from smp_ray.demo import words
from smp_ray.demo.scenes import COLOURS, PLACES, SUBJECTS, Scene, stream_of

TITLE_KINDS: tuple[str, ...] = ("describing", "off_topic", "low_quality", "careful")

WRONG_ATTRIBUTES: dict[str, tuple[tuple[int | None, float], ...]] = {
    "describing": ((0, 1.0),),
    "off_topic": ((1, 0.2), (2, 0.3), (3, 0.2), (None, 0.3)),
    "careful": ((0, 0.35), (1, 0.15), (2, 0.1), (3, 0.1), (None, 0.3)),
    "low_quality": ((None, 1.0),),
}
"""Kind to the chances of how many of (subject, colour, place) a title gets wrong; None: it names no picture at all."""

SLIPS: tuple[float, ...] = (0.55, 0.3, 0.15)
"""Chances of 0, 1 and 2 misspelt words in a describing or an off-topic title."""

QUALITY: dict[str, tuple[float, float, float]] = {
    "describing": (0.65, 0.3, 0.05),
    "off_topic": (0.65, 0.3, 0.05),
    "low_quality": (0.0, 0.0, 0.0),
    "careful": (1.0, 1.0, 1.0),
}
"""Kind to text quality (0 to 1) after 0, 1 and 2 slips."""


@dataclass(frozen=True, slots=True)
class Title:
    """A title and its truth: kind, text quality (0 to 1) and the share of the picture it gets wrong (0 to 1)."""

    text: str
    kind: str
    quality: float
    mismatch: float


def draw_title(rng: np.random.Generator, stream: str, scene: Scene, kind: str, *, slips: bool = True) -> Title:
    """A title of `kind` for a picture of `scene`, one that belongs to `stream`; without `slips` it is well spelt."""
    wrong = _pick_weighted(rng, WRONG_ATTRIBUTES[kind])
    count = int(rng.choice(3, p=SLIPS)) if slips and kind in ("describing", "off_topic") else 0
    while True:
        text = _WRITERS[kind](rng, None if wrong is None else _mistake(rng, scene, wrong))
        for _ in range(count):
            text = _misspell(rng, text)
        if stream_of(text.lower()) == stream and text != scene.caption():
            mismatch = 1.0 if wrong is None else wrong / 3
            return Title(text, kind, QUALITY[kind][count], mismatch)


def _pick_weighted(rng: np.random.Generator, table: tuple[tuple[int | None, float], ...]) -> int | None:
    return table[rng.choice(len(table), p=[weight for _, weight in table])][0]


def _mistake(rng: np.random.Generator, scene: Scene, count: int) -> Scene:
    """The scene with `count` of subject, colour and place replaced by others."""
    choices = {"subject": SUBJECTS, "colour": tuple(COLOURS), "place": tuple(PLACES)}
    changes: dict[str, Any] = {}
    for name in rng.permutation(list(choices))[:count]:
        changes[str(name)] = _one(rng, [value for value in choices[name] if value != getattr(scene, name)])
    return replace(scene, **changes)


def _one(rng: np.random.Generator, options: list[str] | tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _names(rng: np.random.Generator, scene: Scene | None) -> dict[str, str]:
    """What a template may fill in: the scene's words, sometimes a synonym, and free words of every list."""
    filled = {name: _one(rng, options) for name, options in words.FREE.items()}
    if scene is not None:
        filled |= {
            "colour": scene.colour,
            "subject": _one(rng, (scene.subject, scene.subject, *words.SUBJECT_SYNONYMS[scene.subject])),
            "where": _one(rng, words.PLACE_PHRASES[scene.place]),
            "place": _one(rng, words.PLACE_NOUNS[scene.place]),
        }
    return filled


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(rng: np.random.Generator, scene: Scene | None) -> str:
    """A plain title: of the scene, or of a matter no picture shows."""
    text = _one(rng, words.PLAIN if scene is not None else words.UNRELATED).format_map(_names(rng, scene))
    match rng.integers(5):
        case 0:
            return text.lower()
        case 1:
            return text.title()
        case _:
            return _capital(text)


def _careful(rng: np.random.Generator, scene: Scene | None) -> str:
    """A carefully written sentence, of the scene or of a thought."""
    templates = words.CAREFUL if scene is not None else words.REFLECTION
    return _capital(_one(rng, templates).format_map(_names(rng, scene)))


def _low_quality(rng: np.random.Generator, scene: Scene | None) -> str:
    """A camera's file name, gibberish or emoji."""
    match rng.integers(3):
        case 0:
            return _camera_name(rng)
        case 1:
            return gibberish(rng)
        case _:
            return "".join(_one(rng, words.EMOJI) for _ in range(rng.integers(2, 7)))


def _camera_name(rng: np.random.Generator) -> str:
    number = int(rng.integers(10_000))
    date = f"{rng.integers(2012, 2017)}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}"
    clock = f"{rng.integers(24):02d}{rng.integers(60):02d}{rng.integers(60):02d}"
    forms = (
        f"DSC_{number:04d}",
        f"DSC0{number:04d}",
        f"IMG_{number:04d}",
        f"IMG_{number:04d}.JPG",
        f"P{rng.integers(1, 13):x}{rng.integers(1, 29):02d}{number:04d}".upper(),
        f"_MG_{number:04d}",
        f"IMG_{date}_{clock}",
        f"{date}_{clock}",
        f"{number:04d}-{rng.integers(1000):03d}",
    )
    return _one(rng, forms)


def gibberish(rng: np.random.Generator) -> str:
    """Runs of random letters, here and there a digit or a mark, as a hand on a keyboard makes them."""
    letters = "qwertyuiopasdfghjklzxcvbnm" if rng.random() < 0.7 else "asdfghjkl;xz1234!?#"
    runs = ["".join(_one(rng, tuple(letters)) for _ in range(rng.integers(3, 9))) for _ in range(rng.integers(1, 4))]
    return " ".join(runs)


def _misspell(rng: np.random.Generator, text: str) -> str:
    """Swap, drop or double one letter inside a word."""
    places = [i for i in range(1, len(text) - 1) if text[i - 1 : i + 2].isalpha()]
    if not places:
        return text
    i = places[int(rng.integers(len(places)))]
    match rng.integers(3):
        case 0:
            return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
        case 1:
            return text[:i] + text[i + 1 :]
        case _:
            return text[:i] + text[i] + text[i:]


_WRITERS: dict[str, Callable[[np.random.Generator, Scene | None], str]] = {
    "describing": _plain,
    "off_topic": _plain,
    "low_quality": _low_quality,
    "careful": _careful,
}
