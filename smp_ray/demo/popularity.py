"""Popularity in the sample world: a sum of six effects and noise, mapped to SMPD-Image's label distribution.

    score      = sum over parts p of WEIGHTS[p] * (effect_p - mean_p) / sd_p
    latent     = score + NOISE * standard normal
    popularity = log2(max(2, round(2 ** SN^-1(F(latent))))), rounded to two decimals

Parts: `user` (log reach), `time` (hour, weekend, drift), `category`, `content` (subject, colour and place of the
picture), `quality` (of the title's text) and `mismatch` (share of the picture the title gets wrong; a low-quality
title says nothing and so cannot disagree: it counts as the mean). SN is a skew-normal fitted to SMPD's 305,613 labels,
F the distribution function of the latent. Means, deviations and F come once from a fixed reference population drawn by
the world's own laws, never from the sample, so that posts can stream. The squared weights sum to 1.

The paper's claims are planted by the signs: popularity rises with mismatch (claim 1) and with text quality (claim 2).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from smp_ray.demo.scenes import COLOURS, PLACES, SUBJECTS
from smp_ray.demo.titles import QUALITY, SLIPS, TITLE_KINDS, WRONG_ATTRIBUTES

Array = NDArray[np.float64]

WEIGHTS: dict[str, float] = {
    name: share**0.5
    for name, share in {
        "user": 0.30, "time": 0.05, "category": 0.07, "content": 0.10, "quality": 0.15, "mismatch": 0.13,
    }.items()
}  # fmt: skip
NOISE = 0.20**0.5
SKEW_NORMAL = {"a": 1.7175, "loc": 4.0514, "scale": 3.4191}
LARGEST = 16.56
"""SMPD-Image's largest label; the fitted skew-normal's tail goes on where the data ends."""

FIRST_POST, PERIOD = 1_425_168_000, 480 * 86_400
"""The first possible post (2015-03-01, seconds since 1970, UTC) and the span of all posts in seconds."""

CATEGORIES: dict[str, float] = {
    "Travel": 0.5, "Celebration": 0.2, "Fashion": 1.3, "Entertainment": 0.7, "People": 0.0, "Weather": -0.4,
    "Animal": -0.9, "Food": -1.2, "Urban": 0.3, "Electronics": -1.5, "Family": -0.2,
}  # fmt: skip
"""Category to its effect."""

STYLES: dict[str, float] = {"careless": 0.3, "plain": 0.5, "careful": 0.2}
"""Share of users of each writing style."""

KINDS_BY_STYLE: dict[str, tuple[float, ...]] = {
    "careless": (0.36, 0.26, 0.30, 0.08),
    "plain": (0.46, 0.28, 0.12, 0.14),
    "careful": (0.32, 0.26, 0.04, 0.38),
}
"""Style to the chances of `TITLE_KINDS`, in their order."""

_ORDER = np.random.default_rng(2024)
SUBJECT_EFFECT = dict(zip(SUBJECTS, _ORDER.permutation(np.linspace(-1, 1, len(SUBJECTS))).tolist(), strict=True))
PLACE_EFFECT = dict(zip(PLACES, _ORDER.permutation(np.linspace(-0.8, 0.8, len(PLACES))).tolist(), strict=True))
COLOUR_EFFECT = dict(zip(COLOURS, _ORDER.permutation(np.linspace(-0.4, 0.4, len(COLOURS))).tolist(), strict=True))

_CONTENT = (SUBJECT_EFFECT, COLOUR_EFFECT, PLACE_EFFECT)


@dataclass(frozen=True)
class Reference:
    """Mean and standard deviation of every effect, and quantiles of latent and popularity at the same 4,001 levels."""

    mean: dict[str, float]
    deviation: dict[str, float]
    latent: Array
    popularity: Array


def time_effect(seconds: Array) -> Array:
    """Effect of the moment of posting (seconds since 1970, UTC): evenings, weekends, a dip in mid-period."""
    hour, day = seconds / 3600 % 24, seconds // 86_400 % 7
    drift = 4 * ((seconds - FIRST_POST) / PERIOD - 0.6) ** 2
    # 1970-01-01 was a Thursday, so days 2 and 3 of its week are Saturday and Sunday.
    return np.cos((hour - 19) * np.pi / 12) + 0.6 * ((day == 2) | (day == 3)) + drift


def mean_mismatch() -> float:
    """Mean share a title gets wrong, over all titles that are not of low quality."""
    chances = _kind_shares()
    chances.pop("low_quality")
    means = {kind: sum(w * (1 if n is None else n / 3) for n, w in WRONG_ATTRIBUTES[kind]) for kind in chances}
    return sum(chances[kind] * means[kind] for kind in chances) / sum(chances.values())


def signal(effects: dict[str, float]) -> float:
    """The noise-free score of a post with these effects, one a part of `WEIGHTS`."""
    known = reference()
    return sum(WEIGHTS[part] * (effects[part] - known.mean[part]) / known.deviation[part] for part in WEIGHTS)


def popularity(latent: float) -> float:
    """The label: log2 of a whole number of views, at least 2, rounded to two decimals."""
    known = reference()
    views = max(2, round(2 ** float(np.interp(latent, known.latent, known.popularity))))
    return round(float(np.log2(views)), 2)


@lru_cache(maxsize=1)
def reference(count: int = 400_000) -> Reference:
    """The fixed reference population, the same for every world."""
    effects = _reference_effects(np.random.default_rng(305_613), count)
    mean = {part: float(values.mean()) for part, values in effects.items()}
    deviation = {part: float(values.std()) for part, values in effects.items()}
    latent = NOISE * np.random.default_rng(1).standard_normal(count)
    for part, weight in WEIGHTS.items():
        latent += weight * (effects[part] - mean[part]) / deviation[part]
    # Levels evenly spaced in the normal quantile resolve both tails as well as the middle.
    levels = _normal_cdf(np.linspace(-4.5, 4.5, 4_001))
    labels = np.minimum(skew_normal_quantiles(levels), LARGEST)
    return Reference(mean, deviation, np.quantile(latent, levels), labels)


def skew_normal_quantiles(levels: Array) -> Array:
    """Quantiles of that skew-normal at `levels` (0 to 1), its density 2 phi(z) Phi(a z) summed on a fine grid."""
    z = np.linspace(-6, 8, 28_001)
    density = 2 * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * _normal_cdf(SKEW_NORMAL["a"] * z)
    distribution = np.cumsum(density) * (z[1] - z[0])
    return SKEW_NORMAL["loc"] + SKEW_NORMAL["scale"] * np.interp(levels, distribution, z)


def _normal_cdf(values: Array) -> Array:
    return np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in values.tolist()])


def _reference_effects(rng: np.random.Generator, count: int) -> dict[str, Array]:
    """`count` draws of every effect, by the laws that `smp_ray.demo.world` draws posts by."""
    kinds = rng.choice(len(TITLE_KINDS), count, p=list(_kind_shares().values()))
    slips = rng.choice(3, count, p=SLIPS)
    quality = np.array([QUALITY[kind] for kind in TITLE_KINDS])[kinds, slips]
    mismatch = np.empty(count)
    for index, kind in enumerate(TITLE_KINDS):
        rows = kinds == index
        wrong, weights = zip(*WRONG_ATTRIBUTES[kind], strict=True)
        values = np.array([1.0 if n is None else n / 3 for n in wrong])
        mismatch[rows] = mean_mismatch() if kind == "low_quality" else rng.choice(values, rows.sum(), p=weights)
    names = list(CATEGORIES)
    return {
        "user": rng.standard_normal(count),
        "time": time_effect(FIRST_POST + rng.integers(0, PERIOD, count).astype(float)),
        "category": np.array([CATEGORIES[name] for name in names])[rng.integers(len(names), size=count)],
        "content": np.sum([rng.choice(list(table.values()), count) for table in _CONTENT], axis=0),
        "quality": quality,
        "mismatch": mismatch,
    }  # fmt: skip


def content_effect(subject: str, colour: str, place: str) -> float:
    """Effect of what the picture shows."""
    return SUBJECT_EFFECT[subject] + COLOUR_EFFECT[colour] + PLACE_EFFECT[place]


def _kind_shares() -> dict[str, float]:
    """Share of each kind among all titles."""
    return {
        kind: sum(STYLES[style] * KINDS_BY_STYLE[style][index] for style in STYLES)
        for index, kind in enumerate(TITLE_KINDS)
    }
