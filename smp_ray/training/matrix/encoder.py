"""Everything of the matrix that is fitted, on training posts alone: categories, PCA, TF-IDF and a text prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smp_ray.config import METADATA, TEXT, MatrixConfig
from smp_ray.training.matrix.columns import Columns
from smp_ray.training.matrix.matrix import Matrix

#: A category that fewer training posts have is missing: its mean would be the label of those few.
LEAST_POSTS_OF_A_CATEGORY = 5
#: Categories of a column that LightGBM gets as such; a column with more is given by its counts alone.
MOST_CATEGORIES = 1000
#: Posts that PCA and TF-IDF are fitted on at most; the subspace of more is the same within its noise.
MOST_FITTED = 200_000


@dataclass
class _Built:
    """Columns of the matrix as they are made."""

    blocks: list[np.ndarray] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    families: list[str] = field(default_factory=list)

    def add(self, family: str, names: list[str], values: np.ndarray) -> None:
        self.blocks.append(values.reshape(len(values), -1).astype(np.float32))
        self.names += names
        self.families += [family] * len(names)


def encode(
    columns: Columns, training: np.ndarray, popularity: np.ndarray, users: np.ndarray, settings: MatrixConfig, seed: int
) -> Matrix:
    """The matrix of all posts, everything in it fitted on the training posts.

    Args:
        columns: posts before encoding.
        training: bool (posts,), the posts that may be learned from.
        popularity: float64 (posts,), read for training posts only.
        users: int64 (posts,), codes that keep a user's posts together when the text prediction is cross-fitted.
        settings: what to build.
        seed: of the decompositions and inner folds.
    """
    built = _Built()
    for name, values in columns.numbers.items():
        built.add(columns.families[name], [name], values)
    levels = _categories(built, columns, training)
    for name, vectors in columns.vectors.items():
        reduced = settings.embeddings == "pca" or name.startswith("user_")
        values = _pca(vectors, training, settings.pca_dimensions, seed) if reduced else vectors.astype(np.float32)
        kind = "pc" if reduced else "d"
        names = [f"{name}_{kind}{place:0{3 if values.shape[1] > 99 else 2}d}" for place in range(values.shape[1])]
        built.add(columns.families[name], names, values)
    if columns.counts:
        from smp_ray.training.matrix.text import encode_texts

        # Numbers for a linear model: logs and ratios instead of the counts that they are made of.
        read = [name for name in columns.numbers if columns.families[name] == METADATA]
        read = [name for name in read if f"log_{name}" not in columns.numbers]
        own = [place for place, family in enumerate(built.families) if family == METADATA]
        shared = [place for place in own if built.names[place].endswith("_posts") and built.names[place] not in read]
        frequencies = np.concatenate(built.blocks, axis=1)[:, shared]
        numbers = np.column_stack([*(columns.numbers[name] for name in read), frequencies.astype(np.float64)])
        for name, values in encode_texts(
            columns.counts, numbers, training, popularity, users, settings.text_dimensions, seed
        ):
            built.add(TEXT, [name], values)
    return Matrix(
        values=np.ascontiguousarray(np.concatenate(built.blocks, axis=1)),
        names=tuple(built.names),
        families=tuple(built.families),
        categorical=tuple(levels),
        levels=levels,
    )


def _categories(built: _Built, columns: Columns, training: np.ndarray) -> dict[str, tuple[str, ...]]:
    """Codes of the categories that enough training posts have, and how many training posts share each category."""
    levels: dict[str, tuple[str, ...]] = {}
    for name, texts in columns.categories.items():
        known, counts = np.unique([text for text in texts[training] if text is not None], return_counts=True)
        family = columns.families[name]
        of_text = dict(zip(known.tolist(), counts.tolist(), strict=True))
        shared = np.array([of_text.get(text, 0) if text is not None else np.nan for text in texts])
        built.add(family, [f"{name}_posts"], np.log1p(shared))
        kept = known[counts >= LEAST_POSTS_OF_A_CATEGORY].tolist()
        if 0 < len(kept) <= MOST_CATEGORIES:
            code = {text: place for place, text in enumerate(kept)}
            built.add(family, [name], np.array([code.get(text, np.nan) for text in texts]))
            levels[name] = tuple(kept)
    return levels


def _pca(vectors: np.ndarray, training: np.ndarray, dimensions: int, seed: int) -> np.ndarray:
    """Principal components, float32 (posts, at most `dimensions`), fitted on training posts that have the vector."""
    present = ~np.isnan(vectors[:, 0])
    fitted = np.flatnonzero(present & training)
    if len(fitted) < 2:
        return np.full((len(vectors), 1), np.nan, dtype=np.float32)
    from sklearn.decomposition import PCA

    fitted = _sample(fitted, seed)
    count = min(dimensions, vectors.shape[1], len(fitted))
    model: Any = PCA(n_components=count, svd_solver="covariance_eigh", random_state=seed)
    model.fit(vectors[fitted].astype(np.float32))
    return _in_pieces(vectors, present, model.transform, count)


def _in_pieces(
    vectors: np.ndarray, present: np.ndarray, transform: Callable[[np.ndarray], np.ndarray], width: int
) -> np.ndarray:
    values = np.full((len(vectors), width), np.nan, dtype=np.float32)
    for start in range(0, len(vectors), 100_000):
        rows = start + np.flatnonzero(present[start : start + 100_000])
        if len(rows):
            values[rows] = transform(vectors[rows].astype(np.float32))
    return values


def _sample(rows: np.ndarray, seed: int) -> np.ndarray:
    if len(rows) <= MOST_FITTED:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, MOST_FITTED, replace=False))
