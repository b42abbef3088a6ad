"""Which adapter learns from which post, is stopped by which, and is applied to which: decided before anything runs.

No post is adapted by what saw its label. Under `user` and `random` folds adapter k learns from all other folds and is
applied to fold k. Under `time` it learns from the folds before k; the first block, which has no past, is halved by
user, and two more adapters learn from one half each and are applied to the other.
"""

from dataclasses import dataclass

import numpy as np

from smp_ray.config import ADAPTED, AdapterConfig
from smp_ray.errors import DataError
from smp_ray.training.splits import TRAINS_ONLY, Splits

#: What a post is to an adapter.
UNSEEN, TRAINS, HELD_OUT = 0, 1, 2
#: In place of an adapter's number: the mean over those of the folds.
MEAN_OF_FOLDS = -1


@dataclass(frozen=True)
class AdapterPlan:
    """Who learns from whom.

    Attributes:
        folds: their number.
        row_ids: int64 (posts,), of the labelled posts.
        popularity: float32 (posts,).
        roles: uint8 (posts, adapters), UNSEEN, TRAINS or HELD_OUT (for early stopping).
        label_mean, label_std: float64 (adapters,), of the labels that the adapter learns from; std above 0.
    """

    folds: int
    row_ids: np.ndarray
    popularity: np.ndarray
    roles: np.ndarray
    label_mean: np.ndarray
    label_std: np.ndarray


def adapter_count(splits: Splits) -> int:
    """Number of adapters: one a fold, and two for the first block of a `time` split."""
    return splits.count + (2 if splits.kind == "time" else 0)


def of_others(kind: str, folds: int) -> int:
    """The adapter of posts that belong to no fold: under `time` that of the last, which learned from the most."""
    return folds - 1 if kind == "time" else MEAN_OF_FOLDS


def assign(splits: Splits, seed: int) -> np.ndarray:
    """The adapter that is applied to each labelled post, int16 (posts,)."""
    adapter = splits.folds.astype(np.int16)
    first = splits.folds == TRAINS_ONLY
    if first.any():
        adapter[first] = splits.count + _share_of_units(splits.users[first], 0.5, (seed, 0))
    return adapter


def plan_adapters(splits: Splits, settings: AdapterConfig, present: np.ndarray) -> AdapterPlan:
    """Divide the labelled posts among the adapters; those that have no embedding at all, not `present`, teach nothing.

    Raises:
        DataError: an adapter would have fewer than two posts.
    """
    applied = assign(splits, settings.seed)
    roles = np.full((len(applied), adapter_count(splits)), UNSEEN, dtype=np.uint8)
    # Whole users are held out where folds are whole users.
    units = splits.users if splits.kind == "user" else splits.row_ids
    for adapter in range(roles.shape[1]):
        other_half = (splits.folds == TRAINS_ONLY) & (applied != adapter)
        sees = np.flatnonzero((splits.training(adapter) if adapter < splits.count else other_half) & present)
        if len(sees) < 2:
            raise DataError(
                f"training.adapter: adapter {adapter} would learn from {len(sees)} posts that have an image or a "
                "title; set training.split.folds lower or training.split.kind to random, or leave "
                f"{ADAPTED} out of training.matrix.families"
            )
        held = _share_of_units(units[sees], settings.holdout, (settings.seed, 1 + adapter))
        roles[sees, adapter] = np.where(held, HELD_OUT, TRAINS)
    labels = [splits.popularity[column == TRAINS] for column in roles.T]
    deviations = np.array([values.std() for values in labels])
    return AdapterPlan(
        folds=splits.count,
        row_ids=splits.row_ids,
        popularity=splits.popularity.astype(np.float32),
        roles=roles,
        label_mean=np.array([values.mean() for values in labels]),
        # All labels equal is possible in a small block; there is nothing to scale then.
        label_std=np.where(deviations > 0, deviations, 1.0),
    )


def _share_of_units(units: np.ndarray, share: float, seed: tuple[int, int]) -> np.ndarray:
    """Posts of units (users, or single posts) picked at random until they make up a share, bool (n,): some, never all.

    Where all are of one unit, each post is a unit of its own. A unit too large for the share is passed over; where all
    are, the smallest is picked.
    """
    if len(np.unique(units)) < 2:
        units = np.arange(len(units))
    names, index, sizes = np.unique(units, return_inverse=True, return_counts=True)
    ranked = np.random.default_rng(seed).permutation(len(names))
    fits = ranked[sizes[ranked] <= share * len(units)]
    picked = fits[np.cumsum(sizes[fits]) <= share * len(units)]
    return np.isin(index, picked if len(picked) else np.argmin(sizes))
