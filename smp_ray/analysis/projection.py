"""The embedding spaces before and after the adapter (Figure 5): a 3-D map, and how near popularity lies in them.

Spaces of one modality are always shown and judged on the same posts, those that have a vector in each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from smp_ray.analysis.resampling import user_codes
from smp_ray.evaluation.bootstrap import Bootstrap, Estimate

#: (modality, space), as ("title", "adapted"), to row ids, int64 (posts,), and vectors (posts, width); a row of NaN is
#: no vector.
Vectors = Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]

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


def project(vectors: Vectors, popularity: pd.Series, posts: int, seed: int) -> pd.DataFrame:
    """3-D t-SNE of a sample of posts in each space.

    Each space is its own map: axes mean nothing, and positions in two maps cannot be compared, only what lies together.

    Args:
        vectors: of each space.
        popularity: labels on the index row_id; posts that it lacks have none.
        posts: size of the sample. Modalities share as many posts as they can.
        seed: of the sample and of the maps.

    Returns:
        row_id, modality, space, x, y, z (standard deviations of the map), density (of the map around the post, on a log
        scale from 0, the emptiest place, to 1), popularity. A space with fewer than 6 different vectors has no rows.
    """
    frames = []
    for modality, space, row_ids, values in _sampled(vectors, posts, seed):
        if len(np.unique(values, axis=0)) < _SMALLEST_MAP:
            continue
        places = _map(values, seed)
        frame = pd.DataFrame({"row_id": row_ids, "modality": modality, "space": space})
        frame[["x", "y", "z"]] = places
        frame["density"] = _density(places)
        frame["popularity"] = popularity.reindex(row_ids).to_numpy(dtype=np.float64)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=_MAP_COLUMNS)


def _sampled(vectors: Vectors, posts: int, seed: int) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """(modality, space, row ids, float32 vectors) of at most `posts` posts, in order of their row ids."""
    present = {}
    for key, (row_ids, values) in vectors.items():
        present[key] = np.asarray(row_ids)[~np.isnan(values[:, 0])]
    every = np.unique(np.concatenate([*present.values(), np.empty(0, np.int64)]))
    # One draw of places for all posts: the first `posts` of whichever posts a modality has.
    place = np.random.default_rng(seed).permutation(len(every))
    for modality in dict.fromkeys(modality for modality, _ in vectors):
        common = every
        for (other, _), row_ids in present.items():
            common = common[np.isin(common, row_ids)] if other == modality else common
        order = np.argsort(place[np.searchsorted(every, common)])
        chosen = np.sort(common[order[:posts]])
        for (other, space), (row_ids, values) in vectors.items():
            if other == modality:
                at = np.argsort(row_ids, kind="stable")
                found = at[np.searchsorted(row_ids, chosen, sorter=at)]
                yield modality, space, chosen, np.asarray(values[found], dtype=np.float32)


def _map(values: np.ndarray, seed: int) -> np.ndarray:
    """float64 (posts, 3), each axis centred, all on the scale of their common standard deviation."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    perplexity = min(30.0, (len(values) - 1) / 3)
    init = "pca" if values.shape[1] >= 3 else "random"
    # Threads add up in an order of their own, and t-SNE makes another picture of the last digit.
    with threadpool_limits(1):
        tsne = TSNE(
            3, perplexity=perplexity, init=init, learning_rate=max(len(values) / 48, _LOWEST_RATE), angle=_ANGLE,
            max_iter=_ITERATIONS, random_state=seed,
        )  # fmt: skip
        found = tsne.fit_transform(values)
    centred = found.astype(np.float64) - found.mean(axis=0)
    return np.asarray(centred / centred.std())


def _density(places: np.ndarray) -> np.ndarray:
    """Log density by the distance to the tenth neighbour, rescaled to 0 to 1."""
    from sklearn.neighbors import NearestNeighbors

    neighbour = min(_DENSITY_NEIGHBOUR, len(places) - 1)
    # A post is the nearest to itself.
    distance = NearestNeighbors(n_neighbors=neighbour + 1).fit(places).kneighbors(places)[0][:, -1]
    # Posts with the same vector lie on one point, where the density has no bound.
    smallest = distance[distance > 0].min(initial=np.inf)
    log_density = -np.log(np.maximum(distance, smallest if np.isfinite(smallest) else 1.0))
    spread = np.ptp(log_density)
    return np.asarray((log_density - log_density.min()) / spread if spread else np.full(len(places), 1.0))


def neighbour_quality(
    vectors: Vectors, popularity: pd.Series, folds: pd.Series, users: pd.Series, k: int, resamples: int,
    posts: int = 20_000, past_only: bool = False, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """How well the mean popularity of a post's neighbours in each space predicts its own, out of fold.

    Neighbours are the nearest by cosine among the posts of the other folds.

    Args:
        vectors: of each space.
        popularity: labels on the index row_id; only posts in it with a label and a fold take part.
        folds: on the index row_id; posts of a fold below 0 are only neighbours.
        users: of each post on the index row_id.
        k: neighbours; all there are, where a fold's others are fewer.
        resamples: bootstrap resamples of users.
        posts: at most so many, a sample, for the time it takes grows with the square.
        past_only: neighbours come from earlier folds alone, as a split by time asks.
        seed: of the sample and of the bootstrap.

    Returns:
        modality, space, src, src_low, src_high, mae, mae_low, mae_high (95 % intervals), posts (that were judged), k;
        NaN where undefined.
    """
    labelled = popularity.index[popularity.notna()].intersection(folds.index[folds.notna()])
    within = {}
    for key, (row_ids, values) in vectors.items():
        known = np.isin(row_ids, labelled.to_numpy())
        within[key] = (np.asarray(row_ids)[known], values[known])
    rows = []
    for modality, space, row_ids, values in _sampled(within, posts, seed):
        labels = popularity.reindex(row_ids).to_numpy(dtype=np.float64)
        fold_of = folds.reindex(row_ids).to_numpy(dtype=np.int64)
        predicted = _neighbours_mean(values, labels, fold_of, k, past_only)
        judged = np.isfinite(predicted)
        codes = user_codes(users.reindex(row_ids).to_numpy()[judged])
        found = Bootstrap(codes.tolist(), resamples, seed).estimate(labels[judged], predicted[judged])
        rows.append((modality, space, *_three(found["src"]), *_three(found["mae"]), int(judged.sum()), k))
    frame = pd.DataFrame(rows, columns=_QUALITY_COLUMNS)
    return frame.astype(dict.fromkeys(_QUALITY_COLUMNS[2:8], np.float64))


def _neighbours_mean(
    values: np.ndarray, labels: np.ndarray, fold_of: np.ndarray, k: int, past_only: bool
) -> np.ndarray:
    """Out-of-fold predictions, float64 (posts,); NaN where no fold judges the post or there is no neighbour."""
    from sklearn.neighbors import KNeighborsRegressor

    norms = np.linalg.norm(values, axis=1, keepdims=True)
    # Of unit vectors, the nearest by cosine are the nearest by distance.
    unit = values / np.where(norms > 0, norms, 1)
    predicted = np.full(len(labels), np.nan)
    for fold in np.unique(fold_of[fold_of >= 0]):
        training = fold_of < fold if past_only else fold_of != fold
        if training.any():
            regressor = KNeighborsRegressor(min(k, int(training.sum())), algorithm="brute")
            predicted[fold_of == fold] = regressor.fit(unit[training], labels[training]).predict(unit[fold_of == fold])
    return predicted


def _three(estimate: Estimate) -> tuple[float | None, float | None, float | None]:
    return estimate.value, estimate.low, estimate.high
