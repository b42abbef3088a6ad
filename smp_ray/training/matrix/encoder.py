"""Everything of the matrix that is fitted, as one object: fitted on training posts alone, it encodes any others."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from smp_ray.config import METADATA, TEXT, MatrixConfig
from smp_ray.errors import DataError
from smp_ray.training.matrix.columns import Columns, of_width
from smp_ray.training.matrix.matrix import Matrix
from smp_ray.training.matrix.post_columns import ratios
from smp_ray.training.matrix.text import Arrays, encode_texts, fit_texts

#: A category that fewer training posts have is missing: its mean would be the label of those few.
LEAST_POSTS_OF_A_CATEGORY = 5
#: Categories of a column that LightGBM gets as such; a column with more is given by its counts alone.
MOST_CATEGORIES = 1000
#: Posts that PCA is fitted on at most; the subspace of more is the same within its noise.
MOST_FITTED = 200_000
#: Posts whose vectors are projected at once.
PIECE = 100_000
USER_POSTS = "user_posts_here"
_FACTS = ("seed", "user_posts", "families", "numbers", "counts", "widths")


@dataclass
class Encoder:
    """From columns of posts to the matrix; `fit_transform` first, then `transform` as often as wanted.

    Attributes:
        settings: what to build.
        seed: of the decompositions and inner folds.
        user_posts: how many posts a user has in the table that the training posts are from, no label needed; {}: do
            not say. A user who is not in it has one, the post itself.
        families: the group of each column before encoding.
        numbers: names of the numbers that say something, see `informative`.
        counts: how many training posts have each category, by column.
        widths: of the vectors, by column.
        arrays: PCA (mean and components of each reduced vector) and what `text.fit_texts` made, by name.
    """

    settings: MatrixConfig
    seed: int
    user_posts: dict[str, int]
    families: dict[str, str] = field(default_factory=dict)
    numbers: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)

    def fit_transform(self, columns: Columns, popularity: np.ndarray, users: np.ndarray) -> Matrix:
        """Fit on training posts; their matrix, with predictions from text by models that saw neither post nor user.

        Args:
            columns: the training posts.
            popularity: float64 (posts,).
            users: int64 (posts,), codes that keep a user's posts together when the text prediction is cross-fitted.
        """
        self.families = {USER_POSTS: METADATA, **columns.families}
        self.numbers = informative({**columns.numbers, USER_POSTS: self._user_posts(columns.users)})
        for name, values in columns.categories.items():
            known, counts = np.unique([text for text in values if text is not None], return_counts=True)
            if len(known) + (counts.sum() < len(values)) > 1:
                self.counts[name] = dict(zip(known.tolist(), counts.tolist(), strict=True))
        for name, vectors in columns.vectors.items():
            if vectors.size and (present := np.flatnonzero(~np.isnan(vectors[:, 0]))).size > 1:
                self.widths[name] = vectors.shape[1]
                if self.settings.embeddings == "pca" or name.startswith("user_"):
                    self._fit_pca(name, vectors, present)

        def texts(numbers: np.ndarray) -> Arrays:
            fitted, encoded = fit_texts(
                columns.counts, numbers, popularity, users, self.settings.text_dimensions, self.seed
            )
            self.arrays |= fitted
            return encoded

        return self._encoded(columns, texts)

    def transform(self, columns: Columns) -> Matrix:
        """The matrix of other posts, at least one.

        Raises:
            DataError: a column or a vector's width is not as it was fitted.
        """
        if lacking := self.families.keys() - {USER_POSTS} - columns.families.keys():
            raise DataError(f"the posts lack columns that the encoder was fitted on: {', '.join(sorted(lacking))}")
        return self._encoded(columns, lambda numbers: encode_texts(self.arrays, columns.counts, numbers))

    def to_bytes(self) -> bytes:
        """As an npz file: the fitted arrays, and JSON (UTF-8 bytes) of everything else."""
        facts = {name: getattr(self, name) for name in _FACTS}
        text = json.dumps({**facts, "settings": self.settings.model_dump(mode="json")})
        file = io.BytesIO()
        arrays: dict[str, Any] = {"json": np.frombuffer(text.encode(), dtype=np.uint8), **self.arrays}
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Encoder:
        """What `to_bytes` wrote; nothing in it is executed."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = dict(file)
        facts = json.loads(arrays.pop("json").tobytes())
        return cls(**{**facts, "settings": MatrixConfig.model_validate(facts["settings"])}, arrays=arrays)

    def _encoded(self, columns: Columns, texts: Callable[[np.ndarray], Arrays]) -> Matrix:
        every = {**columns.numbers, USER_POSTS: self._user_posts(columns.users)}
        numbers = {name: every[name] for name in self.numbers}
        numbers |= ratios(numbers)
        built = {name: (self.families.get(name, METADATA), values) for name, values in numbers.items()}
        levels: dict[str, tuple[str, ...]] = {}
        for name, counts in self.counts.items():
            family, values = self.families[name], columns.categories[name]
            shared = np.array([np.nan if text is None else counts.get(text, 0) for text in values])
            built[f"{name}_posts"] = family, np.log1p(shared).astype(np.float32)
            kept = [text for text, count in counts.items() if count >= LEAST_POSTS_OF_A_CATEGORY]
            if 0 < len(kept) <= MOST_CATEGORIES:
                code = {text: place for place, text in enumerate(kept)}
                built[name] = family, np.array([code.get(text, np.nan) for text in values])
                levels[name] = tuple(kept)
        # Numbers for a linear model: logs and ratios instead of the counts that they are made of.
        read = [name for name in numbers if built[name][0] == METADATA and f"log_{name}" not in numbers]
        read += [f"{name}_posts" for name in self.counts if self.families[name] == METADATA]
        for name, width in self.widths.items():
            values, kind = self._reduced(name, of_width(columns.vectors[name], width))
            digits = 3 if values.shape[1] > 99 else 2
            for place, part in enumerate(values.T):
                built[f"{name}_{kind}{place:0{digits}d}"] = self.families[name], part
        if columns.counts:
            known = np.column_stack([np.zeros((len(columns), 0)), *(built[name][1] for name in read)])
            built |= {name: (TEXT, values) for name, values in texts(known).items()}
        matrix = np.empty((len(columns), len(built)), dtype=np.float32)
        for place, (_, values) in enumerate(built.values()):
            matrix[:, place] = values
        families = tuple(family for family, _ in built.values())
        return Matrix(matrix, tuple(built), families, tuple(levels), levels)

    def _user_posts(self, users: np.ndarray) -> np.ndarray:
        if not self.user_posts:
            return np.full(len(users), np.nan)
        return np.array([np.nan if user is None else self.user_posts.get(user, 1) for user in users], dtype=np.float64)

    def _fit_pca(self, name: str, vectors: np.ndarray, present: np.ndarray) -> None:
        from sklearn.decomposition import PCA

        if len(present) > MOST_FITTED:
            present = np.sort(np.random.default_rng(self.seed).choice(present, MOST_FITTED, replace=False))
        count = min(self.settings.pca_dimensions, vectors.shape[1], len(present))
        model = PCA(count, svd_solver="covariance_eigh").fit(vectors[present].astype(np.float32))
        self.arrays |= {f"{name}_mean": model.mean_, f"{name}_components": model.components_}

    def _reduced(self, name: str, vectors: np.ndarray) -> tuple[np.ndarray, str]:
        """Principal components or the vectors themselves, float32 (posts, dimensions), and what they are called."""
        if vectors.shape[1] != self.widths[name]:
            raise DataError(f"{name} has {vectors.shape[1]} numbers, the encoder was fitted on {self.widths[name]}")
        if f"{name}_mean" not in self.arrays:
            return vectors, "d"
        mean, components = self.arrays[f"{name}_mean"], self.arrays[f"{name}_components"]
        starts = range(0, len(vectors), PIECE)
        pieces = [(vectors[start : start + PIECE].astype(np.float32) - mean) @ components.T for start in starts]
        return np.concatenate(pieces), "pc"


def encode(
    encoder: Encoder, columns: Columns, training: np.ndarray, popularity: np.ndarray, users: np.ndarray
) -> Matrix:
    """The matrix of all posts, by an encoder that is fitted on the training ones.

    Args:
        encoder: not yet fitted.
        columns: of all posts.
        training: bool (posts,), the posts that may be learned from.
        popularity: float64 (posts,), read for training posts only.
        users: int64 (posts,), read for training posts only.
    """
    learned = encoder.fit_transform(columns.rows(training), popularity[training], users[training])
    if training.all():
        return learned
    values = np.empty((len(columns), len(learned.names)), dtype=np.float32)
    values[training] = learned.values
    values[~training] = encoder.transform(columns.rows(~training)).values
    return replace(learned, values=values)


def informative(numbers: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the numbers that differ between posts, each content once (SMPD-Video's hearts are its likes)."""
    first: dict[bytes, str] = {}
    for name, values in numbers.items():
        if len(np.unique(values)) > 1:
            first.setdefault(hashlib.blake2b(values.tobytes(), digest_size=16).digest(), name)
    return list(first.values())
