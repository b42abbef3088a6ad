"""What a predictor is: columns → popularity, grown round by round, kept as text.

Everything else (the sweep, baselines, ablation, final models, predictions) knows these classes and no library. A
predictor of one's own is one file: a `Predictor`, what it grows and what it loads; see `registry` for how it is found.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from smp_ray.config import SearchRange
from smp_ray.training.matrix.matrix import Matrix

Objective = Literal["mae", "mape"]


class Growing(ABC):
    """A model in training."""

    @abstractmethod
    def grow(self) -> np.ndarray:
        """Train one more round.

        Returns:
            Predictions of the validation posts after it, float64 (validation posts,), none where there are none. It
            may be the model's own buffer, which the next round overwrites.
        """

    @abstractmethod
    def text(self) -> str:
        """The model as text or JSON, never pickled; `Predictor.load` is the inverse."""


class Model(ABC):
    """A trained model; `columns` is how many it was trained on."""

    columns: int

    @abstractmethod
    def predict(self, matrix: Matrix) -> np.ndarray:
        """Popularity, float64 (posts,)."""

    def contributions(self, values: np.ndarray) -> np.ndarray | None:
        """SHAP values, float64 (posts, columns), of posts with these values of the matrix; None: it has none."""
        return None

    def gain(self) -> np.ndarray | None:
        """What each column's splits gained in training, float64 (columns,); None: it has no splits."""
        return None

    def leaves(self) -> int:
        """How many leaves `contributions` visits for each post; 0: none."""
        return 0


class Predictor(ABC):
    """A way to learn popularity.

    Attributes:
        name: as `training.predictor` gives it.
        defaults: its own settings. The first trial has them; a parameter without one is first tried at its low end.
    """

    name: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]] = {}

    def check(  # noqa: B027  (nothing is refused unless it says so)
        self, space: Mapping[str, SearchRange], params: Mapping[str, Any]
    ) -> None:
        """Raise a `ConfigError` that names what of a space cannot be searched, or of fixed parameters be set."""

    def pace(self, params: Mapping[str, Any]) -> float:
        """How far a round goes, against one with the predictor's own settings: at most 1."""
        return 1.0

    @abstractmethod
    def complete(self, params: Mapping[str, Any], objective: Objective, seed: int, threads: int) -> dict[str, Any]:
        """`params`, as configured or searched, with the objective's loss and all that makes training repeatable."""

    @abstractmethod
    def prepare(
        self, training: Matrix, popularity: np.ndarray, validation: Matrix | None, params: dict[str, Any]
    ) -> Any:
        """The data as `begin` takes them, any number of times, whatever of the space is searched.

        `popularity` is float64 (training posts,). Each round predicts the validation posts.
        """

    @abstractmethod
    def begin(self, data: Any, params: dict[str, Any]) -> Growing:
        """A model of no rounds on prepared data, with complete parameters."""

    def together(self, params: dict[str, Any], network: Mapping[str, Any]) -> dict[str, Any] | None:
        """Complete parameters under which processes with a part of the posts each grow one model; None: it cannot.

        `network` is what `ray.train.lightgbm.get_network_params` says of the processes.
        """
        return None

    @abstractmethod
    def load(self, text: str) -> Model:
        """The inverse of `Growing.text`."""

    def checked(self, text: str, columns: int) -> str:
        """A stranger's text as `load` may take it, or a `DataError`; `columns` is how many the model should have."""
        return text
