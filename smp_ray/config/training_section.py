"""The `training` section: folds, adapters, matrix, baselines, ablation; the sweep has a file of its own."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from smp_ray.config.sweep_section import TuneConfig
from smp_ray.plugins import found
from smp_ray.section import Section, without_repeats

Baseline = Literal["mean", "user_mean", "lightgbm_default", "ncku_dart"]


class SplitConfig(Section):
    """How labelled posts are divided into folds; stored once, so that every stage uses the same."""

    kind: Literal["user", "time", "random"] = Field(
        "user", description="user: no user in two folds; time: trained on the past only; random: neither"
    )
    folds: int = Field(5, ge=2, le=50, description="number of folds; time has one more block, the first, never judged")
    seed: int = Field(0, ge=0)


class AdapterConfig(Section):
    """CLIP-Adapter on image and title embeddings with a regression head, cross-fitted over the folds."""

    bottleneck: int = Field(64, ge=1, le=8192, description="hidden width of each modality's adapter")
    title_bottleneck: int | None = Field(None, ge=1, le=8192, description="of the title's adapter; null: as bottleneck")
    residual_ratio: float = Field(0.6, ge=0, le=1, description="share of the adapter's output in the adapted vector")
    title_residual_ratio: float | None = Field(None, ge=0, le=1, description="of the title; null: as residual_ratio")
    head_width: int = Field(64, ge=0, le=8192, description="hidden width of the regression head; 0: a linear head")
    dropout: float = Field(0.3, ge=0, lt=1)
    loss: Literal["huber", "l1", "l2"] = "huber"
    huber_delta: float = Field(1.0, gt=0, description="in standard deviations of the training labels")
    learning_rate: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(1.0, ge=0, description="AdamW's, taken off per step times the learning rate")
    batch_size: int = Field(256, ge=1, le=65_536, description="posts a step over all workers together")
    max_epochs: int = Field(60, ge=1, le=10_000)
    patience: int = Field(8, ge=1, description="epochs without a better held-out loss before an adapter stops")
    holdout: float = Field(0.1, gt=0, lt=0.9, description="share of an adapter's own training part for early stopping")
    memory_mb: int = Field(
        2048, ge=1, description="a worker keeps so much of the posts; more are streamed anew each epoch, in such parts"
    )
    seed: int = Field(0, ge=0)
    workers: int | None = Field(None, ge=1, le=10_000, description="Ray Train workers; null: one a GPU, else one")
    use_gpu: bool | None = Field(None, description="null: where the cluster has GPUs")
    cpus_per_worker: float = Field(1.0, gt=0, le=1024)
    max_failures: int = Field(3, ge=0, description="lost workers that are survived")


class MatrixConfig(Section):
    """The columns that the predictor sees, in families that an ablation can take away."""

    families: Annotated[tuple[str, ...], AfterValidator(without_repeats)] | None = Field(
        None,
        min_length=1,
        description="null: metadata, text, history (by time, with history_delay_days) and what the features allow",
    )
    history_delay_days: float | None = Field(
        None, ge=0, le=3650, description="how long after a post its popularity is known; null: no group history"
    )
    embeddings: Literal["pca", "raw"] = Field("pca", description="pca is fitted on training folds only")
    pca_dimensions: int = Field(32, ge=1, le=4096, description="kept of each embedding")
    text_dimensions: int = Field(32, ge=0, le=1024, description="TF-IDF reduced by truncated SVD; 0: none")


class BoostingConfig(Section):
    """How the final models are trained."""

    workers: int = Field(
        1, ge=1, le=1000, description="processes that train a final model together, each on a part of the posts"
    )


class AblationConfig(Section):
    """The ablation: every variant gets the same folds and the same candidate settings."""

    candidates: int = Field(4, ge=1, le=1000, description="settings tried by each variant: LightGBM's own, then drawn")


#: The predictor that is built in, and the entry-point group of those of installed packages.
LIGHTGBM, PREDICTORS = "lightgbm", "smp_ray.predictors"


def _known(predictor: str) -> str:
    allowed = sorted({LIGHTGBM, *(entry.name for entry in found(PREDICTORS, ()))})
    if predictor not in allowed:
        raise ValueError(", ".join(allowed))
    return predictor


class TrainingConfig(Section):
    """From stored features to a predictor."""

    max_labelled: int | None = Field(
        None, ge=100, description="labelled posts to learn from at most, a sample by user and time; null: all"
    )
    split: SplitConfig = SplitConfig()
    adapter: AdapterConfig = AdapterConfig()
    matrix: MatrixConfig = MatrixConfig()
    predictor: Annotated[str, AfterValidator(_known)] = Field(LIGHTGBM, description="what `tune` searches and fits")
    tune: TuneConfig = TuneConfig()
    boosting: BoostingConfig = BoostingConfig()
    baselines: tuple[Baseline, ...] = Field(("mean", "user_mean", "lightgbm_default", "ncku_dart"))
    ablation: AblationConfig = AblationConfig()
    resamples: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples of users for the intervals")
