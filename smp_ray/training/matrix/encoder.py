"""Everything of the matrix that is fitted, as one object: fitted on training posts alone, it encodes any others."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter
from safetensors.numpy import load, save
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from smp_ray.config import METADATA, TEXT, MatrixConfig
from smp_ray.errors import DataError
from smp_ray.models.tensors import metadata_of
from smp_ray.training.matrix.columns import Columns
from smp_ray.training.matrix.matrix import Matrix
from smp_ray.training.matrix.post_columns import ratios
from smp_ray.training.matrix.text import Arrays, encode_texts, fit_texts

#: A category that fewer training posts have is missing: its mean would be the label of those few.
LEAST_POSTS_OF_A_CATEGORY = 5
#: Key of all but the arrays in the metadata of a file.
FACTS = "smp_ray.encoder"
#: Categories of a column that LightGBM gets as such; a column with more is given by its counts alone.
MOST_CATEGORIES = 1000
#: Posts that PCA is fitted on at most; the subspace of more is the same within its noise.
MOST_FITTED = 50_000
#: Posts whose vectors are projected at once.
PIECE = 20_000


@dataclass
class Encoder:
    """From columns of posts to the matrix; `fit_transform` first, then `transform` as often as wanted.

    Attributes:
        settings: what to build.
        seed: of the decompositions and inner folds.
        families: the group of each column before encoding.
        numbers: names of the numbers that say something, see `informative`.
        counts: how many training posts have each category, by column.
        widths: of the vectors, by column.
        arrays: PCA (mean and components of each reduced vector) and what `text.fit_texts` made, by name.
    """

    settings: MatrixConfig
    seed: int
    families: dict[str, str] = field(default_factory=dict)
    numbers: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)

    def fit_transform(
        self, columns: Columns, training: np.ndarray, popularity: np.ndarray, users: np.ndarray
    ) -> Matrix:
        """The matrix of all posts, by what is fitted here on the `training` ones, bool (posts,).

        `popularity` is float64 (posts,), `users` int64 (posts,): both are read of the training posts alone. These get
        predictions from text by models that saw neither post nor user. No vector is copied, but for the fit of a PCA.
        """
        # More threads add up in another order, and the SVD's fifth digit would depend on how many there happen to be.
        with threadpool_limits(1):
            self._fit(columns, np.flatnonzero(training))
            built, numbers = self._built(columns)
            return self._matrix(built, self._fitted_texts(columns.counts, numbers, training, popularity, users))

    def transform(self, columns: Columns) -> Matrix:
        """The matrix of other posts, at least one.

        Raises:
            DataError: a column or a vector's width is not as it was fitted.
        """
        if lacking := self.families.keys() - columns.families.keys():
            raise DataError(f"the posts lack columns that the encoder was fitted on: {', '.join(sorted(lacking))}")
        built, numbers = self._built(columns)
        return self._matrix(built, encode_texts(self.arrays, columns.counts, numbers) if columns.counts else {})

    def to_bytes(self) -> bytes:
        """As a safetensors file: the fitted arrays, and JSON of everything else among its metadata."""
        facts = TypeAdapter(Encoder).dump_json(self, exclude={"arrays"}).decode()
        return save({name: np.ascontiguousarray(values) for name, values in self.arrays.items()}, {FACTS: facts})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Encoder":
        """What `to_bytes` wrote; nothing in it is executed."""
        return replace(TypeAdapter(cls).validate_json(metadata_of(data)[FACTS]), arrays=load(data))

    @property
    def _levels(self) -> dict[str, tuple[str, ...]]:
        """The texts of each column that LightGBM gets as categories."""
        kept = {
            name: tuple(text for text, count in counts.items() if count >= LEAST_POSTS_OF_A_CATEGORY)
            for name, counts in self.counts.items()
        }
        return {name: texts for name, texts in kept.items() if 0 < len(texts) <= MOST_CATEGORIES}

    def _built(self, columns: Columns) -> tuple[dict[str, tuple[str, np.ndarray]], np.ndarray]:
        """Group and values of each column but those of the texts, and numbers for a ridge, float64 (posts, numbers)."""
        numbers = {name: columns.numbers[name] for name in self.numbers}
        numbers |= ratios(numbers)
        built = {name: (self.families.get(name, METADATA), values) for name, values in numbers.items()}
        levels = self._levels
        for name, counts in self.counts.items():
            family, values = self.families[name], columns.categories[name]
            shared = np.array([np.nan if text is None else counts.get(text, 0) for text in values])
            built[f"{name}_posts"] = family, np.log1p(shared).astype(np.float32)
            if name in levels:
                code = {text: place for place, text in enumerate(levels[name])}
                built[name] = family, np.array([code.get(text, np.nan) for text in values])
        # A linear model reads logs and ratios instead of the counts that they are made of.
        own = [name for name, (family, _) in built.items() if family == METADATA and name not in levels]
        read = [built[name][1] for name in own if f"log_{name}" not in numbers]
        for name in self.widths:
            parts, kind = self._reduced(name, columns.vectors[name])
            digits = 3 if parts.shape[1] > 99 else 2
            for place, part in enumerate(parts.T):
                built[f"{name}_{kind}{place:0{digits}d}"] = self.families[name], part
        return built, np.column_stack([np.zeros((len(columns), 0)), *read])

    def _matrix(self, built: dict[str, tuple[str, np.ndarray]], texts: Arrays) -> Matrix:
        every = {**built, **{name: (TEXT, values) for name, values in texts.items()}}
        if not every:
            raise DataError(f"these posts have nothing to say in {', '.join(sorted(set(self.families.values())))}")
        values = np.stack([values for _, values in every.values()], axis=1, dtype=np.float32, casting="same_kind")
        return Matrix(values, tuple(every), tuple(family for family, _ in every.values()), self._levels)

    def _fit(self, columns: Columns, training: np.ndarray) -> None:
        """All but the texts, on the posts at these positions."""
        self.families = dict(columns.families)
        self.numbers = informative({name: values[training] for name, values in columns.numbers.items()})
        for name, values in columns.categories.items():
            counts = pd.Series(values[training], dtype=object).value_counts().sort_index().to_dict()
            if len(counts) + (sum(counts.values()) < len(training)) > 1:
                self.counts[name] = counts
        for name, vectors in columns.vectors.items():
            if vectors.size and (present := training[~np.isnan(vectors[training, 0])]).size > 1:
                self.widths[name] = vectors.shape[1]
                if self.settings.embeddings == "pca" or name.startswith("user_"):
                    self._fit_pca(name, vectors, present)

    def _fitted_texts(
        self,
        counts: Mapping[str, Any],
        numbers: np.ndarray,
        training: np.ndarray,
        popularity: np.ndarray,
        users: np.ndarray,
    ) -> Arrays:
        if not counts:
            return {}
        learned = {name: values[training] for name, values in counts.items()}
        size = self.settings.text_dimensions
        fitted, own = fit_texts(learned, numbers[training], popularity[training], users[training], size, self.seed)
        self.arrays |= fitted
        if training.all():
            return own
        others = encode_texts(
            self.arrays, {name: values[~training] for name, values in counts.items()}, numbers[~training]
        )
        found = {name: np.empty(len(training), np.float32) for name in own}
        for name, values in found.items():
            values[training], values[~training] = own[name], others[name]
        return found

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


def informative(numbers: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the numbers that differ between posts, each content once (SMPD-Video's hearts are its likes)."""
    first: dict[int, str] = {}
    for name, values in numbers.items():
        if len(np.unique(values)) > 1:
            first.setdefault(hash(values.tobytes()), name)
    return list(first.values())
