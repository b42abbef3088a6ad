"""Columns from the words of a post: character n-grams reduced by truncated SVD, and cross-fitted ridge predictions.

A ridge prediction of a training post comes from a model that saw neither the post nor its user (inner folds within
the training posts); any other post takes the mean of the inner models. Trees get one number for what thousands of
sparse n-grams say together. Counts are hashed, which fits nothing; everything else is fitted on training posts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

INNER_FOLDS = 5
#: Hash buckets of words and of character n-grams, and the fewest training posts that a bucket needs.
BUCKETS, FEWEST_POSTS = 2**18, 3
CHARACTER_NGRAMS = (3, 5)
RIDGE_ALPHA = 3.0
#: Norm that all standardised numbers have together beside the unit norm of a post's n-grams.
NUMBERS_WEIGHT = 0.75**0.5
#: Standardised numbers beyond this are cut there, so that no outlier rules a linear model.
LARGEST_NUMBER = 5.0


def hashed_counts(texts: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """How often each post has each word and each character n-gram, sparse float32 (posts, BUCKETS) each.

    Args:
        texts: object (posts,) by name; all of a post's texts count together.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    joined = [" ".join(parts) for parts in zip(*texts.values(), strict=True)]
    options: dict[str, Any] = {"n_features": BUCKETS, "norm": None, "alternate_sign": False, "dtype": np.float32}
    return {
        "words": HashingVectorizer(**options).transform(joined),
        "characters": HashingVectorizer(analyzer="char_wb", ngram_range=CHARACTER_NGRAMS, **options).transform(joined),
    }


def encode_texts(
    counts: Mapping[str, Any],
    numbers: np.ndarray,
    training: np.ndarray,
    popularity: np.ndarray,
    users: np.ndarray,
    dimensions: int,
    seed: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and values, float32 (posts,), of the group `text`.

    Args:
        counts: see `hashed_counts`.
        numbers: float64 (posts, columns), what a second ridge reads beside the text; NaN where missing.
        training: bool (posts,), the posts that may be learned from.
        popularity: float64 (posts,), read for training posts only.
        users: int64 (posts,), kept together in the inner folds.
        dimensions: of the truncated SVD; 0: none.
        seed: of the decomposition and the inner folds.
    """
    from scipy import sparse

    weighted = {name: _tf_idf(part, training) for name, part in counts.items()}
    characters = weighted["characters"]
    empty = characters.getnnz(axis=1) == 0
    count = min(dimensions, characters.shape[1] - 1, int(training.sum()) - 1)
    if count > 0:
        from sklearn.decomposition import TruncatedSVD

        reduced = TruncatedSVD(count, random_state=seed).fit(characters[training]).transform(characters)
        reduced[empty] = np.nan
        for place in range(count):
            yield f"text_svd{place:02d}", reduced[:, place].astype(np.float32)
    if characters.shape[1]:
        both = sparse.hstack([weighted["words"], characters], format="csr")
        if (prediction := cross_fitted_ridge(both, training, popularity, users, seed)) is not None:
            prediction[empty] = np.nan
            yield "text_prediction", prediction
    if numbers.shape[1]:
        scaled = sparse.csr_matrix(_standardised(numbers, training))
        all_known = sparse.hstack([characters, scaled], format="csr")
        if (prediction := cross_fitted_ridge(all_known, training, popularity, users, seed)) is not None:
            yield "text_and_metadata_prediction", prediction


def _tf_idf(counts: Any, training: np.ndarray) -> Any:
    """Unit rows of log counts times inverse document frequencies, of the buckets that enough training posts have."""
    from sklearn.feature_extraction.text import TfidfTransformer

    posts_with = np.asarray((counts[training] > 0).sum(axis=0)).ravel()
    kept = counts[:, np.flatnonzero(posts_with >= FEWEST_POSTS)]
    if not kept.shape[1]:
        return kept
    return TfidfTransformer(sublinear_tf=True).fit(kept[training]).transform(kept).astype(np.float32)


def _standardised(numbers: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Numbers by the mean and deviation of the training posts, missing ones at their median, float32."""
    known = np.where(np.isfinite(numbers), numbers, np.nan)
    has_any = np.isfinite(known[training]).any(axis=0)
    known = known[:, has_any]
    filled = np.where(np.isnan(known), np.nanmedian(known[training], axis=0), known)
    deviation = filled[training].std(axis=0)
    filled = filled[:, deviation > 0]
    standard = (filled - filled[training].mean(axis=0)) / deviation[deviation > 0]
    weight = NUMBERS_WEIGHT / max(filled.shape[1], 1) ** 0.5
    return (np.clip(standard, -LARGEST_NUMBER, LARGEST_NUMBER) * weight).astype(np.float32)


def cross_fitted_ridge(
    features: Any, training: np.ndarray, popularity: np.ndarray, users: np.ndarray, seed: int
) -> np.ndarray | None:
    """Popularity predicted from sparse features, float32 (posts,); None with fewer training users than inner folds.

    Args:
        features: sparse (posts, columns).
        training: bool (posts,).
        popularity: float64 (posts,), read for training posts only.
        users: int64 (posts,), kept together in the inner folds.
        seed: of the inner folds.
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold

    fitted = np.flatnonzero(training)
    if len(np.unique(users[fitted])) < INNER_FOLDS:
        return None
    prediction = np.zeros(len(training), dtype=np.float32)
    others = np.flatnonzero(~training)
    inner = GroupKFold(INNER_FOLDS, shuffle=True, random_state=seed + 1)
    for learned, judged in inner.split(fitted, groups=users[fitted]):
        model = Ridge(alpha=RIDGE_ALPHA, solver="sparse_cg", tol=1e-4)
        model.fit(features[fitted[learned]], popularity[fitted[learned]])
        prediction[fitted[judged]] = model.predict(features[fitted[judged]])
        if len(others):
            prediction[others] += model.predict(features[others]) / INNER_FOLDS
    return prediction
