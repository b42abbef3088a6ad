"""The embedding spaces before and after the adapter (Figure 5): a 3-D map, and how near popularity lies in them.

Spaces of one modality are always shown and judged on the same posts, those that have a vector in each.
"""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors
from sklearn.preprocessing import minmax_scale
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from smp_ray.evaluation.bootstrap import Bootstrap, estimates

BEFORE, AFTER = "before", "after"
#: How far the space after is from the one before, paired.
DIFFERENCE = "after less before"
#: (modality, space), as ("title", "after"), to the vectors of all posts, (posts, width); a row of NaN is no vector.
Vectors = Mapping[tuple[str, str], np.ndarray]

#: Fewer distinct posts are no map: three axes and a neighbourhood need more.
_SMALLEST_MAP = 6
#: Fewer iterations than scikit-learn's 1,000 and coarser far forces: on 1,000 posts in 512 dimensions a third of the
#: time (2 s of one core a map) with the same trustworthiness.
_ITERATIONS, _ANGLE = 400, 0.8
#: scikit-learn's own rate, posts / 48, is at least 50, with which maps of fewer than about 500 posts fly apart.
_LOWEST_RATE = 10.0
#: The density of a post is taken from the distance to this neighbour.
_DENSITY_NEIGHBOUR = 10
_MAP_COLUMNS = ["row_id", "modality", "space", "x", "y", "z", "density", "popularity"]
_QUALITY_COLUMNS = ["modality", "space", "src", "src_low", "src_high", "mae", "mae_low", "mae_high", "posts", "k"]


def project(posts: pd.DataFrame, vectors: Vectors, count: int, seed: int) -> pd.DataFrame:
    """3-D t-SNE of a sample of `count` posts in each space; modalities share as many posts as they can.

    Each space is its own map: axes mean nothing, and positions in two maps cannot be compared, only what lies together.

    Returns:
        row_id, modality, space, x, y, z (standard deviations of the map), density (of the map around the post, on a log
        scale from 0, the emptiest place, to 1), popularity. A space with fewer than 6 different vectors has no rows.
    """
    order = np.random.default_rng(seed).permutation(len(posts))
    found = []
    for modality, space, present, values in _spaces(vectors):
        chosen = np.sort(order[present[order]][:count])
        if len(np.unique(values[chosen], axis=0)) >= _SMALLEST_MAP:
            found.append((modality, space, chosen, np.asarray(values[chosen], dtype=np.float32)))
    # Threads add up in an order of their own, and t-SNE makes another picture of the last digit: each map has one.
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        maps = list(pool.map(lambda values: _map(values, seed), [values for *_, values in found]))
    frames = [pd.DataFrame(columns=_MAP_COLUMNS)]
    for (modality, space, chosen, _), places in zip(found, maps, strict=True):
        frame = posts.iloc[chosen][["row_id", "popularity"]].assign(modality=modality, space=space)
        frame[["x", "y", "z"]] = places
        frames.append(frame.assign(density=_density(places))[_MAP_COLUMNS])
    return pd.concat(frames[1:] or frames, ignore_index=True)


def _spaces(vectors: Vectors) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """(modality, space, which posts have a vector in all spaces of the modality, vectors)."""
    for (modality, space), values in vectors.items():
        own = [~np.isnan(found[:, 0]) for (other, _), found in vectors.items() if other == modality]
        yield modality, space, np.all(own, axis=0), values


def _map(values: np.ndarray, seed: int) -> np.ndarray:
    """float64 (posts, 3), each axis centred, all on the scale of their common standard deviation."""
    with threadpool_limits(1):  # OpenMP's is a limit of each thread's own
        tsne = TSNE(
            3, perplexity=min(30.0, (len(values) - 1) / 3), learning_rate=max(len(values) / 48, _LOWEST_RATE),
            angle=_ANGLE, max_iter=_ITERATIONS, random_state=seed,
        )  # fmt: skip
        found = tsne.fit_transform(values)
    centred = found.astype(np.float64) - found.mean(axis=0)
    return np.asarray(centred / centred.std())


def _density(places: np.ndarray) -> np.ndarray:
    """Log density by the distance to the tenth neighbour, rescaled to 0 to 1."""
    neighbour = min(_DENSITY_NEIGHBOUR, len(places) - 1)
    # A post is the nearest to itself; those with the same vector lie on one point, where the density has no bound.
    distance = pd.Series(NearestNeighbors(n_neighbors=neighbour + 1).fit(places).kneighbors(places)[0][:, -1])
    density = -np.log(distance.mask(distance == 0))
    return np.asarray(minmax_scale(density.fillna(density.max())))


def neighbour_quality(
    posts: pd.DataFrame, vectors: Vectors, k: int, resamples: int, past_only: bool = False, seed: int = 0
) -> pd.DataFrame:
    """How well the mean popularity of a post's neighbours in each space predicts its own, out of fold.

    Neighbours are the `k` nearest by cosine (all there are, where they are fewer) among the posts of the other folds,
    or with `past_only`, as a split by time asks, of earlier folds alone. Only posts with a label and a fold take part,
    those of a fold below 0 as neighbours alone. The time grows with the posts' square.

    Returns:
        modality, space (of a modality with both, also `DIFFERENCE`), src, src_low, src_high, mae, mae_low, mae_high
        (95 % intervals), posts (that were judged), k;
        NaN where undefined.
    """
    judged: dict[tuple[str, str], tuple[np.ndarray, int]] = {}
    for modality, space, present, values in _spaces(vectors):
        taking_part = present & posts[["popularity", "fold"]].notna().all(axis=1).to_numpy()
        own = posts[taking_part].reset_index(drop=True)
        own["predicted"] = _neighbours_mean(values[taking_part].astype(np.float32), own, k, past_only)
        own = own[own["predicted"].notna()]
        metrics = Bootstrap(own["user_id"], resamples, seed).metrics(own["popularity"], own["predicted"])
        judged[modality, space] = metrics, len(own)
        if space == AFTER and (modality, BEFORE) in judged:  # of the same posts and resamples
            judged[modality, DIFFERENCE] = metrics - judged[modality, BEFORE][0], len(own)
    rows = []
    for (modality, space), (metrics, count) in judged.items():
        found = estimates(metrics)
        numbers = [value for metric in ("src", "mae") for value in vars(found[metric]).values()]
        rows.append((modality, space, *numbers, count, k))
    return pd.DataFrame(rows, columns=_QUALITY_COLUMNS).astype(dict.fromkeys(_QUALITY_COLUMNS[2:8], np.float64))


def _neighbours_mean(values: np.ndarray, posts: pd.DataFrame, k: int, past_only: bool) -> np.ndarray:
    """Out-of-fold predictions, float64 (posts,); NaN where no fold judges the post or there is no neighbour."""
    labels, fold_of = posts["popularity"].to_numpy(), posts["fold"].to_numpy()
    predicted = np.full(len(labels), np.nan)
    for fold in np.unique(fold_of[fold_of >= 0]):
        training = fold_of < fold if past_only else fold_of != fold
        if training.any():
            regressor = KNeighborsRegressor(min(k, int(training.sum())), metric="cosine", algorithm="brute")
            regressor.fit(values[training], labels[training])
            predicted[fold_of == fold] = regressor.predict(values[fold_of == fold])
    return predicted
