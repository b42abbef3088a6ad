"""The `training.tune` section: the sweep and its search space."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from smp_ray.section import Section

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class _Bounds(Section):
    type: str
    low: float
    high: float
    log: bool = Field(False, description="drawn evenly on the log scale")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not be above high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"low ({self.low}) must be above 0 where log is true")
        return self

    def distribution(self) -> "BaseDistribution":
        """As Optuna has it, which reads this very section."""
        from optuna.distributions import json_to_distribution  # every worker reads the config, few search

        return json_to_distribution(self.model_dump_json())

    def nearest(self, value: Any) -> float:
        """The value that is nearest to a number; the low end for anything else."""
        return min(max(value, self.low), self.high) if isinstance(value, int | float) else self.low


class FloatRange(_Bounds):
    """A real-valued hyperparameter."""

    type: Literal["float"]


class IntRange(_Bounds):
    """A whole-numbered hyperparameter; both bounds are included."""

    type: Literal["int"]
    low: int
    high: int


class Choice(Section):
    """A hyperparameter that is one of a list."""

    type: Literal["choice"]
    values: tuple[bool | int | float | str, ...] = Field(min_length=1)

    def distribution(self) -> "BaseDistribution":
        """As Optuna has it."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def nearest(self, value: Any) -> bool | int | float | str:
        """The value itself if it is in the list, else the first."""
        return value if value in self.values else self.values[0]


SearchRange = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]

#: LightGBM's parameters that are searched unless `training.tune.space` says otherwise.
DEFAULT_SPACE: dict[str, SearchRange] = {
    "learning_rate": FloatRange(type="float", low=0.02, high=0.1, log=True),
    "num_leaves": IntRange(type="int", low=5, high=128, log=True),
    "min_data_in_leaf": IntRange(type="int", low=5, high=60, log=True),
    "feature_fraction": FloatRange(type="float", low=0.1, high=0.8),
    "bagging_fraction": FloatRange(type="float", low=0.5, high=0.95),
    "lambda_l1": FloatRange(type="float", low=1e-3, high=10.0, log=True),
    "lambda_l2": FloatRange(type="float", low=1e-2, high=30.0, log=True),
    "extra_trees": Choice(type="choice", values=(False, True)),
}


class AshaConfig(Section):
    """Asynchronous successive halving: a trial that is among the worse at a rung ends there."""

    grace_rounds: int = Field(
        600,
        ge=1,
        description="boosting rounds that every trial gets; at 300, slow learners that win in the end rank last",
    )
    reduction_factor: float = Field(2.0, gt=1, description="one in this many goes on from rung to rung")


#: The key, for messages: how many CPUs a trial, a baseline or a variant of the ablation takes.
CPUS_PER_TRIAL = "training.tune.cpus_per_trial"


class TuneConfig(Section):
    """The sweep: Ray Tune with Optuna's TPE and ASHA."""

    objective: Literal["mae", "mape"] = Field("mae", description="averaged over the folds; it also picks the loss")
    trials: int = Field(40, ge=1, le=100_000)
    time_budget_s: float | None = Field(None, gt=0, description="wall clock of the sweep; null: until all trials ran")
    max_concurrent: int | None = Field(None, ge=1, le=10_000, description="null: as many as the cluster's CPUs hold")
    cpus_per_trial: int = Field(1, ge=1, le=1024, description="also the predictor's threads")
    max_rounds: int = Field(2000, ge=1, le=1_000_000, description="boosting rounds of a trial at most")
    early_stopping_rounds: int = Field(100, ge=1, description="rounds without a better mean over the folds")
    asha: AshaConfig | None = AshaConfig()
    models: int = Field(5, ge=1, le=100, description="the final predictor is the mean of the best trials' models")
    seed: int = Field(0, ge=0)
    space: dict[str, SearchRange] = Field(DEFAULT_SPACE, description="the predictor's parameter -> range")
    params: dict[str, bool | int | float | str] = Field({}, description="fixed parameters of the predictor")

    @property
    def bins(self) -> dict[str, bool | int | float | str]:
        """Of `params`, the resolution at which columns are seen; the baselines see them at the same."""
        return {name: value for name, value in self.params.items() if name == "max_bin"}

    @model_validator(mode="after")
    def _no_overlap(self) -> Self:
        both = sorted(set(self.space) & set(self.params))
        if both:
            raise ValueError(f"{', '.join(both)} in 'space' and in 'params'; give each once")
        reserved = sorted({*self.space, *self.params} & _RESERVED)
        if reserved:
            raise ValueError(f"{', '.join(reserved)} set by smp_ray itself (rounds, threads, seed, metric)")
        return self


#: With LightGBM's other names for them.
_RESERVED = {
    "num_iterations", "num_iteration", "n_iter", "num_tree", "num_trees", "num_round", "num_rounds", "nrounds",
    "num_boost_round", "n_estimators", "max_iter", "num_threads", "num_thread", "nthread", "nthreads", "n_jobs", "seed",
    "random_seed", "random_state", "metric", "metrics", "metric_types", "verbosity", "verbose",
}  # fmt: skip
