"""Columns from the words of a post: TF-IDF reduced by truncated SVD, and a cross-fitted ridge prediction.

The ridge prediction of a training post comes from a model that saw neither the post nor its user (inner folds within
the training posts); any other post takes the mean of the inner models. Trees get one number for what thousands of
sparse words say together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from smp_ray.training.columns import Columns

INNER_FOLDS = 5
#: Words kept, the commonest first, and the fewest training posts that a word needs.
MOST_WORDS, FEWEST_POSTS = 50_000, 2
RIDGE_ALPHA = 3.0


def encode_texts(
    columns: Columns, training: np.ndarray, popularity: np.ndarray, users: np.ndarray, dimensions: int, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and values, float32 (posts,), of the text family; see `encoder.encode` for the arguments."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = np.array([" ".join(parts) for parts in zip(*columns.texts.values(), strict=True)], dtype=object)
    fitted = np.flatnonzero(training)
    vectorizer = TfidfVectorizer(min_df=FEWEST_POSTS, max_features=MOST_WORDS, sublinear_tf=True, dtype=np.float32)
    try:
        vectorizer.fit(texts[fitted])
    except ValueError:  # scikit-learn's way to say that no word is left: gibberish, or too few posts
        return
    words: Any = vectorizer.transform(texts)
    empty = np.asarray(words.getnnz(axis=1) == 0)
    count = min(dimensions, words.shape[1] - 1, len(fitted) - 1)
    if count > 0:
        reduced = TruncatedSVD(count, random_state=seed).fit(words[fitted]).transform(words).astype(np.float32)
        reduced[empty] = np.nan
        for place in range(count):
            yield f"text_svd{place:02d}", reduced[:, place]
    prediction = cross_fitted_ridge(words, training, popularity, users, seed)
    if prediction is not None:
        prediction[empty] = np.nan
        yield "text_prediction", prediction


def cross_fitted_ridge(
    words: Any, training: np.ndarray, popularity: np.ndarray, users: np.ndarray, seed: int
) -> np.ndarray | None:
    """Popularity predicted from sparse words, float32 (posts,); None with fewer training users than inner folds.

    Args:
        words: sparse (posts, words).
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
    inner = GroupKFold(INNER_FOLDS, shuffle=True, random_state=seed)
    for learned, judged in inner.split(fitted, groups=users[fitted]):
        model = Ridge(alpha=RIDGE_ALPHA, solver="sparse_cg", tol=1e-4)
        model.fit(words[fitted[learned]], popularity[fitted[learned]])
        prediction[fitted[judged]] = model.predict(words[fitted[judged]])
        if len(others):
            prediction[others] += model.predict(words[others]) / INNER_FOLDS
    return prediction
