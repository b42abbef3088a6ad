"""LightGBM as a predictor: its parameters, the binned data, growth round by round, and its own text files."""

from collections.abc import Mapping
from typing import Any

import lightgbm as lgb
import numpy as np

from smp_ray.config import LIGHTGBM, SearchRange
from smp_ray.errors import ConfigError
from smp_ray.training.boosting.base import Growing, Model, Objective, Predictor
from smp_ray.training.boosting.trees import checked
from smp_ray.training.matrix.matrix import Matrix

#: LightGBM's other names of its parameters.
_LOSS = {"objective", "objective_type", "app", "application", "loss"}
_RATES = ("learning_rate", "shrinkage_rate", "eta")
_KINDS = ("boosting", "boosting_type", "boost", "data_sample_strategy")
_LINEAR = {"linear_tree", "linear_trees"}


class LightGBM(Predictor):
    """Gradient-boosted trees, https://lightgbm.readthedocs.io."""

    name = LIGHTGBM
    defaults = {  # noqa: RUF012  (declared as a constant in the base)
        "learning_rate": 0.1, "num_leaves": 31, "max_depth": -1, "min_data_in_leaf": 20, "feature_fraction": 1.0,
        "bagging_fraction": 1.0, "lambda_l1": 0.0, "lambda_l2": 0.0, "path_smooth": 0.0, "extra_trees": False,
        "boosting": "gbdt", "alpha": 0.9,
    }  # fmt: skip

    def check(self, space: Mapping[str, SearchRange], params: Mapping[str, Any]) -> None:
        """Refuse what shapes the bins, which all trials share, and linear trees."""
        # Of the parameters that it is given, a Dataset names those that are its own.
        wrong = sorted(lgb.Dataset(np.zeros((0, 0)), params=dict.fromkeys(space)).get_params())
        if wrong:
            raise ConfigError(
                f"training.tune.space: {', '.join(wrong)} shapes the bins, which all trials share; set it in "
                "training.tune.params"
            )
        if linear := _LINEAR & {*space, *(name for name, value in params.items() if value)}:
            raise ConfigError(f"training.tune: {linear.pop()}: linear trees give no reasons, and are not taken")

    def pace(self, params: Mapping[str, Any]) -> float:
        """Slow learners need as many more rounds to get as far.

        On 2,972 real posts (70 settings with learning rates from 0.01 to 0.2, 5 folds) the ranks of trials after 100
        rounds of this measure and at their end correlate by 0.99, after 100 plain rounds by 0.33.
        """
        usual = self.defaults["learning_rate"]
        return min(1.0, float(next((params[name] for name in _RATES if name in params), usual)) / usual)

    def complete(self, params: Mapping[str, Any], objective: Objective, seed: int, threads: int) -> dict[str, Any]:
        """An `objective` among `params` is the loss; the seed is that of bagging, columns, binning and dart."""
        complete = {
            **params,
            "metric": "None",
            "seed": seed,
            "num_threads": threads,
            "deterministic": True,
            # Chosen by timing otherwise, and the two sum floating point numbers in different orders.
            "force_row_wise": not params.get("force_col_wise", False),
            # Otherwise columns that no leaf of min_data_in_leaf posts can split are dropped from the shared bins.
            "feature_pre_filter": False,
            "verbosity": -1,
        }
        if not _LOSS & set(params):
            # LightGBM's mape is the absolute error weighted by 1 / max(1, |label|).
            complete["objective"] = "mape" if objective == "mape" else "regression_l1"
        if "goss" not in [params.get(name) for name in _KINDS]:
            # LightGBM ignores bagging_fraction, whatever it is called, unless this says how often to draw.
            complete.setdefault("bagging_freq", 1)
        return complete

    def prepare(
        self, training: Matrix, popularity: np.ndarray, validation: Matrix | None, params: dict[str, Any]
    ) -> tuple[lgb.Dataset, lgb.Dataset | None]:
        """Both parts in the bins of the training posts."""
        data = lgb.Dataset(
            training.values,
            label=popularity,
            # LightGBM takes no names with spaces or JSON's signs, so columns go by number; columns.json names them.
            feature_name=[f"column_{place}" for place in range(len(training.names))],
            categorical_feature=[training.names.index(name) for name in training.levels],
            params=params,
        )
        if validation is None and "machines" in params:
            return data, None  # binned by all processes together, once the booster has connected them
        binned = data.construct()
        if validation is None:
            return binned, None
        unused = np.zeros(len(validation.values))  # LightGBM asks for labels, and judges nothing
        return binned, lgb.Dataset(validation.values, unused, reference=binned, params=params).construct()

    def begin(self, data: tuple[lgb.Dataset, lgb.Dataset | None], params: dict[str, Any]) -> Growing:
        """A booster of no trees."""
        return _Booster(*data, params)

    def together(self, params: dict[str, Any], network: Mapping[str, Any]) -> dict[str, Any] | None:
        """Each process bins and counts its own posts, and they add up their histograms."""
        return {**params, "tree_learner": "data_parallel", "pre_partition": True, **network}

    def load(self, text: str) -> Model:
        """From LightGBM's own text."""
        return _Trees(lgb.Booster(model_str=text))

    def checked(self, text: str, columns: int) -> str:
        """See `trees.checked`."""
        return checked(text, columns)


class _Booster(Growing):
    def __init__(self, training: lgb.Dataset, validation: lgb.Dataset | None, params: dict[str, Any]) -> None:
        self._booster = lgb.Booster(params, training)
        if validation is not None:
            self._booster.add_valid(validation, "validation")
        self._predictions = np.zeros(0)

    def grow(self) -> np.ndarray:
        self._booster.update()
        self._booster.eval_valid(feval=self._capture)
        return self._predictions

    def _capture(self, predictions: np.ndarray, _: lgb.Dataset) -> tuple[str, float, bool]:
        # LightGBM keeps the validation posts' scores as it grows trees, dart's rescaling included, and hands them to
        # an evaluation function: no tree is ever walked twice.
        self._predictions = predictions
        return "unused", 0.0, False

    def text(self) -> str:
        return str(self._booster.model_to_string())


class _Trees(Model):
    def __init__(self, booster: lgb.Booster) -> None:
        self._booster = booster
        self.columns = booster.num_feature()

    def predict(self, matrix: Matrix) -> np.ndarray:
        return np.asarray(self._booster.predict(matrix.values), dtype=np.float64)

    def contributions(self, values: np.ndarray) -> np.ndarray:
        if not len(values):
            return np.zeros(values.shape)
        # The last column is the mean prediction.
        return np.asarray(self._booster.predict(values, pred_contrib=True))[:, :-1]

    def gain(self) -> np.ndarray:
        return self._booster.feature_importance("gain")

    def leaves(self) -> int:
        return sum(int(tree["num_leaves"]) for tree in self._booster.dump_model()["tree_info"])
