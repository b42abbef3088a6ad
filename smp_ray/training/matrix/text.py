"""Columns from the words of a post: character n-grams reduced by truncated SVD, and cross-fitted ridge predictions.

A ridge prediction of a training post comes from a model that saw neither the post nor its user (inner folds within
the training posts); any other post takes the mean of the inner models, which is one linear model again. Trees get one
number for what thousands of sparse n-grams say together. Counts are hashed, which fits nothing.
"""

from collections.abc import Mapping, Sequence
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
#: The predictions, from the text alone and with what else is known of the post.
FROM_TEXT, FROM_ALL = "text_prediction", "text_and_metadata_prediction"

#: What is fitted, by name, and columns of the matrix, float32 (posts,), by name.
Arrays = dict[str, np.ndarray]


def hashed_counts(texts: Sequence[str]) -> dict[str, Any]:
    """How often each post has each word and each character n-gram, sparse float32 (posts, BUCKETS) each."""
    from sklearn.feature_extraction.text import HashingVectorizer

    options: dict[str, Any] = {"n_features": BUCKETS, "norm": None, "alternate_sign": False, "dtype": np.float32}
    return {
        "words": HashingVectorizer(**options).transform(texts),
        "characters": HashingVectorizer(analyzer="char_wb", ngram_range=CHARACTER_NGRAMS, **options).transform(texts),
    }


def fit_texts(
    counts: Mapping[str, Any],
    numbers: np.ndarray,
    popularity: np.ndarray,
    users: np.ndarray,
    dimensions: int,
    seed: int,
) -> tuple[Arrays, Arrays]:
    """Fit on training posts: what `encode_texts` needs, and these posts' columns with cross-fitted predictions.

    Args:
        counts: see `hashed_counts`.
        numbers: float64 (posts, columns), what a second ridge reads beside the text; NaN where missing.
        popularity: float64 (posts,).
        users: int64 (posts,), kept together in the inner folds.
        dimensions: of the truncated SVD; 0: none.
        seed: of SVD and inner folds.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer

    fitted: Arrays = {}
    for name, part in counts.items():
        buckets = np.flatnonzero(part.getnnz(axis=0) >= FEWEST_POSTS)
        fitted[f"{name}_buckets"] = buckets
        fitted[f"{name}_idf"] = TfidfTransformer().fit(part[:, buckets]).idf_ if len(buckets) else np.zeros(0)
    known = np.where(np.isfinite(numbers), numbers, np.nan)
    usable = np.flatnonzero([len(np.unique(column[~np.isnan(column)])) > 1 for column in known.T])
    fitted |= {"read": usable, "median": np.nanmedian(known[:, usable], axis=0)}
    filled = _filled(fitted, numbers)
    fitted |= {"mean": filled.mean(axis=0), "deviation": filled.std(axis=0)}
    features = _features(fitted, counts, numbers)
    characters = features["characters"]
    count = min(dimensions, characters.shape[1] - 1, characters.shape[0] - 1)
    if count > 0:
        fitted["components"] = TruncatedSVD(count, random_state=seed).fit(characters).components_
    predictions: Arrays = {}
    if len(np.unique(users)) >= INNER_FOLDS:
        for name in (FROM_TEXT, FROM_ALL):
            if features[name].shape[1] and (name == FROM_TEXT or numbers.shape[1]):
                predictions[name], fitted[name] = cross_fitted_ridge(features[name], popularity, users, seed)
    return fitted, _columns(fitted, features, predictions)


def encode_texts(fitted: Arrays, counts: Mapping[str, Any], numbers: np.ndarray) -> Arrays:
    """The columns of the group `text` of other posts, by what `fit_texts` fitted; `numbers` as they were fitted."""
    features = _features(fitted, counts, numbers)
    weights = {name: fitted[name] for name in (FROM_TEXT, FROM_ALL) if name in fitted}
    return _columns(fitted, features, {name: features[name] @ w[:-1] + w[-1] for name, w in weights.items()})


def _columns(fitted: Arrays, features: Mapping[str, Any], predictions: Arrays) -> Arrays:
    """Reduced n-grams and the predictions; all that comes from texts alone is missing where there are none."""
    empty = features["characters"].getnnz(axis=1) == 0
    columns: Arrays = {}
    if "components" in fitted:
        reduced = features["characters"] @ fitted["components"].T
        columns = {f"text_svd{place:02d}": values for place, values in enumerate(reduced.T)}
    columns |= predictions
    return {name: values if name == FROM_ALL else np.where(empty, np.nan, values) for name, values in columns.items()}


def _filled(fitted: Arrays, numbers: np.ndarray) -> np.ndarray:
    known = numbers[:, fitted["read"]]
    return np.where(np.isfinite(known), known, fitted["median"])


def _features(fitted: Arrays, counts: Mapping[str, Any], numbers: np.ndarray) -> dict[str, Any]:
    """Sparse float32 (posts, columns): n-grams, and what each prediction reads."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfTransformer

    texts = {}
    for name in ("words", "characters"):
        texts[name] = counts[name][:, fitted[f"{name}_buckets"]]
        if all(texts[name].shape):
            # Unit rows of log counts times inverse document frequencies.
            transformer = TfidfTransformer(sublinear_tf=True)
            transformer.idf_ = fitted[f"{name}_idf"]
            texts[name] = transformer.transform(texts[name]).astype(np.float32)
    standard = (_filled(fitted, numbers) - fitted["mean"]) / fitted["deviation"]
    weight = NUMBERS_WEIGHT / max(standard.shape[1], 1) ** 0.5
    scaled = (np.clip(standard, -LARGEST_NUMBER, LARGEST_NUMBER) * weight).astype(np.float32)
    return {
        "characters": texts["characters"],
        FROM_TEXT: sparse.hstack([texts["words"], texts["characters"]], format="csr"),
        FROM_ALL: sparse.hstack([texts["characters"], sparse.csr_matrix(scaled)], format="csr"),
    }


def cross_fitted_ridge(
    features: Any, popularity: np.ndarray, users: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Popularity of training posts, float32 (posts,), each predicted by a model that saw nothing of its user.

    Beside it the mean of the inner models: float64 (columns + 1,) weights of the sparse features, the intercept last.
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold

    prediction = np.zeros(len(popularity), dtype=np.float32)
    weights = np.zeros(features.shape[1] + 1)
    inner = GroupKFold(INNER_FOLDS, shuffle=True, random_state=seed + 1)
    for learned, judged in inner.split(popularity, groups=users):
        model = Ridge(alpha=RIDGE_ALPHA, solver="sparse_cg", tol=1e-4).fit(features[learned], popularity[learned])
        prediction[judged] = model.predict(features[judged])
        weights += np.append(model.coef_, model.intercept_) / INNER_FOLDS
    return prediction, weights
