"""The users of the sample world: heavy-tailed activity and reach, and the user fields SMPD-Image has."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from smp_ray.demo.popularity import CATEGORIES, STYLES
from smp_ray.demo.scenes import stream_rng

POSTS_PER_USER = 305_613 / 38_312
"""Of SMPD-Image's training part."""

_ACTIVITY = 0.5
"""Exponent of the power law of activity: the busiest of 2,000 users writes 2 % of all posts."""


@dataclass(frozen=True, slots=True)
class User:
    """A user; `reach` is the logarithm of the audience in standard deviations, `fields` the SMPD user record."""

    uid: str
    pathalias: str
    reach: float
    style: str
    category: str
    home: tuple[float, float]
    fields: dict[str, str]


def draw_user_number(rng: np.random.Generator, train_posts: float) -> int:
    """The number of a post's user: the chance of user k falls as a power of k, so that a few post very much."""
    users = max(4, round(train_posts / POSTS_PER_USER))
    return min(users - 1, int(users * rng.random() ** (1 / (1 - _ACTIVITY))))


@lru_cache(maxsize=4096)
def make_user(seed: int, number: int) -> User:
    """User `number` of the world of `seed`; what is known of a user reveals reach only in part."""
    rng = stream_rng("sample users", seed, number)
    reach = float(rng.standard_normal())
    style = str(rng.choice(list(STYLES), p=list(STYLES.values())))
    joined = int(1_425_168_000 - 86_400 * 365 * rng.uniform(0.1, 9) * (1.4 if reach > 0.5 else 1.0))
    taken = np.datetime64(joined - int(rng.integers(30_000_000)), "s")
    zone = int(rng.integers(-11, 13))
    fields = {
        "photo_firstdate": str(joined),
        "photo_count": str(int(np.exp(6.0 + 1.3 * (0.8 * reach + 0.6 * rng.standard_normal()))) + 1),
        "ispro": str(int(rng.random() < 1 / (1 + np.exp(1 - 2 * reach)))),
        "canbuypro": str(int(rng.random() < 0.4)),
        "timezone_offset": f"{'-' if zone < 0 else '+'}{abs(zone):02d}:00",
        "photo_firstdatetaken": str(taken).replace("T", " "),
        "timezone_id": str(zone + 12),
        "user_description": _vector(rng, reach, 8) if rng.random() < 0.7 else "",
        "location_description": _vector(rng, 0.0, 4) if rng.random() < 0.5 else "",
    }
    return User(
        uid=f"{1000 + number}@N{(number * 37 + 11) % 90:02d}",
        pathalias=f"user{number}" if rng.random() < 0.6 else "",
        reach=reach,
        style=style,
        category=tuple(CATEGORIES)[rng.integers(len(CATEGORIES))],
        home=(float(rng.uniform(-50, 65)), float(rng.uniform(-179, 179))),
        fields=fields,
    )


def _vector(rng: np.random.Generator, reach: float, length: int) -> str:
    """A description as SMPD gives it, a vector in a string; its first value leans on the reach."""
    values = rng.standard_normal(length)
    values[0] += 0.8 * reach
    return ",".join(f"{value:.4f}" for value in values)
