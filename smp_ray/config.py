"""The configuration: one YAML file, checked key by key before anything starts.

Every option has its default, unit and bounds here. Unknown keys, wrong types and values out of bounds raise
`ConfigError` with the file, the dotted key, what was found and what is allowed, on one line a problem.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from smp_ray.errors import ConfigError

Family = Literal["caption", "clip", "perplexity"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
MatrixFamily = Literal["metadata", "text", "clip", "adapted", "similarity", "perplexity"]
Baseline = Literal["mean", "user_mean", "lightgbm_default", "ncku_dart"]

#: The columns of the posts table that a `table` source may fill (besides any `user_<name>` number).
TABLE_COLUMNS = (
    "post_id", "user_id", "split", "title", "tags", "text_language", "media_type", "image", "posted_at",
    "latitude", "longitude", "geo_accuracy", "category", "subcategory", "concept", "popularity",
)  # fmt: skip


class Section(BaseModel):
    """A section of the configuration: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class DemoSource(Section):
    """The built-in sample world: synthetic posts with rendered pictures."""

    kind: Literal["demo"]
    posts: int = Field(2000, ge=10, le=100_000_000, description="number of posts, train and test together")
    seed: int = Field(0, ge=0, description="the same seed and size give the same world")
    test_share: float = Field(0.1, ge=0, lt=1, description="share of posts without a published label")


class SmpdImageSource(Section):
    """SMPD-Image (Flickr) in its published layout."""

    kind: Literal["smpd_image"]
    path: str = Field(description="the dataset's root folder")
    splits: tuple[Literal["train", "test"], ...] = Field(("train", "test"), min_length=1)


class SmpdVideoSource(Section):
    """SMPD-Video (TikTok): posts.jsonl, users.jsonl, videos.jsonl and, for labels, popularity.jsonl."""

    kind: Literal["smpd_video"]
    path: str = Field(description="the folder with the JSON-lines files")


class TableSource(Section):
    """One's own table of posts: CSV, Parquet or JSON-lines."""

    kind: Literal["table"]
    path: str = Field(description="a file or folder; local, s3:// or gs://")
    format: Literal["auto", "csv", "parquet", "jsonl"] = "auto"
    columns: dict[str, str] = Field(description="column of the posts table -> column of the file")
    image_root: str | None = Field(None, description="folder of relative image paths; default: the table's folder")

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        if "post_id" not in columns:
            raise ValueError("needs a 'post_id' entry")
        for name in columns:
            if name not in TABLE_COLUMNS and not name.startswith("user_"):
                raise ValueError(f"'{name}' is not one of {', '.join(TABLE_COLUMNS)} or user_<number>")
        return columns


Source = Annotated[DemoSource | SmpdImageSource | SmpdVideoSource | TableSource, Field(discriminator="kind")]


class ModelSection(Section):
    """What the three model families share."""

    dtype: Dtype = Field("auto", description="auto: float32 on a CPU; on a GPU see each family")
    num_gpus: float | None = Field(None, ge=0, le=64, description="GPUs an actor takes; null: decided by placement")
    num_cpus: float | None = Field(None, gt=0, le=1024, description="CPUs an actor takes; null: by placement")
    min_actors: int = Field(1, ge=1, le=10_000, description="actors that must start (spread placement)")
    max_actors: int | None = Field(None, ge=1, le=10_000, description="upper bound of the pool; null: by resources")

    @model_validator(mode="after")
    def _pool_bounds(self) -> ModelSection:
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise ValueError(f"max_actors ({self.max_actors}) is below min_actors ({self.min_actors})")
        return self


class CaptionerConfig(ModelSection):
    """An image-to-text model of transformers. dtype auto on a GPU: bfloat16."""

    model: str = Field("embedded", min_length=1, description="'embedded', a folder, or a hub id")
    revision: str | None = Field(None, description="commit of a hub id")
    prompt: str | None = Field(None, description="instruction, for models that take one")
    max_new_tokens: int = Field(20, ge=1, le=512, description="tokens a caption may have")
    num_beams: int = Field(1, ge=1, le=32)
    batch_size: int = Field(16, ge=1, le=4096, description="images a forward pass")


class ClipConfig(ModelSection):
    """An open_clip model. dtype auto on a GPU: float16."""

    model: str = Field("embedded", min_length=1, description="'embedded', a folder, or an open_clip name")
    pretrained: str | None = Field(None, description="open_clip weights tag or a weights file")
    batch_size: int = Field(64, ge=1, le=8192, description="images or texts a forward pass")


class PerplexityConfig(ModelSection):
    """A causal language model of transformers. dtype auto on a GPU: float32, the number is a measurement."""

    model: str = Field("embedded", min_length=1, description="'embedded', a folder, or a hub id")
    revision: str | None = Field(None, description="commit of a hub id")
    gguf_file: str | None = Field(None, description="name of a GGUF file inside the model folder")
    max_tokens: int = Field(256, ge=1, le=131_072, description="tokens of a text that are scored; the rest is cut")
    batch_size: int = Field(64, ge=1, le=4096, description="texts a forward pass")


class ImagesConfig(Section):
    """How images are fetched and decoded."""

    timeout_s: float = Field(20.0, gt=0, le=600, description="for one image over the network")
    max_bytes: int = Field(64 * 2**20, ge=1024, description="largest encoded image taken")
    max_pixels: int = Field(100_000_000, ge=1, description="largest image decoded, checked before decoding")
    threads: int = Field(8, ge=1, le=256, description="parallel fetches of one worker")


class FeaturesConfig(Section):
    """The feature pass."""

    families: tuple[Family, ...] = Field(("caption", "clip", "perplexity"))
    captioner: CaptionerConfig = CaptionerConfig()
    clip: ClipConfig = ClipConfig()
    perplexity: PerplexityConfig = PerplexityConfig()
    images: ImagesConfig = ImagesConfig()
    placement: Literal["auto", "spread", "colocated"] = "auto"
    workers: int | None = Field(None, ge=1, le=10_000, description="colocated actors; null: by resources")
    rows_per_block: int | None = Field(
        None, ge=1, le=1_000_000, description="posts a block and at least a file: the unit that is kept on a crash"
    )

    @field_validator("families")
    @classmethod
    def _no_repeats(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(families)) != len(families):
            raise ValueError("each family once, but the list names a family twice")
        if not families:
            raise ValueError("at least one of caption, clip, perplexity")
        return families


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
    """The columns that LightGBM sees, in families that an ablation can take away."""

    families: tuple[MatrixFamily, ...] | None = Field(
        None, min_length=1, description="null: metadata, text and all that the configured features allow"
    )
    embeddings: Literal["pca", "raw"] = Field("pca", description="pca is fitted on training folds only")
    pca_dimensions: int = Field(32, ge=1, le=4096, description="kept of each embedding")
    text_dimensions: int = Field(32, ge=0, le=1024, description="TF-IDF reduced by truncated SVD; 0: none")
    max_bin: int = Field(255, ge=3, le=65_535, description="LightGBM's histogram bins a column")

    @field_validator("families")
    @classmethod
    def _no_repeats(cls, families: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if families is not None and len(set(families)) != len(families):
            raise ValueError("each family once, but the list names a family twice")
        return families


class FloatRange(Section):
    """A real-valued hyperparameter."""

    type: Literal["float"]
    low: float
    high: float
    log: bool = Field(False, description="drawn evenly on the log scale")

    @model_validator(mode="after")
    def _bounds(self) -> FloatRange:
        return _check_bounds(self)


class IntRange(Section):
    """A whole-numbered hyperparameter; both bounds are included."""

    type: Literal["int"]
    low: int
    high: int
    log: bool = Field(False, description="drawn evenly on the log scale")

    @model_validator(mode="after")
    def _bounds(self) -> IntRange:
        return _check_bounds(self)


class Choice(Section):
    """A hyperparameter that is one of a list."""

    type: Literal["choice"]
    values: tuple[bool | int | float | str, ...] = Field(min_length=1)


AnyRange = TypeVar("AnyRange", FloatRange, IntRange)


def _check_bounds(bounds: AnyRange) -> AnyRange:
    if bounds.low > bounds.high:
        raise ValueError(f"low ({bounds.low}) must not be above high ({bounds.high})")
    if bounds.log and bounds.low <= 0:
        raise ValueError(f"low ({bounds.low}) must be above 0 where log is true")
    return bounds


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


class TuneConfig(Section):
    """The LightGBM sweep: Ray Tune with Optuna's TPE and ASHA."""

    objective: Literal["mae", "mape"] = Field("mae", description="averaged over the folds; it also picks the loss")
    trials: int = Field(40, ge=1, le=100_000)
    time_budget_s: float | None = Field(None, gt=0, description="wall clock of the sweep; null: until all trials ran")
    max_concurrent: int | None = Field(None, ge=1, le=10_000, description="null: as many as the cluster's CPUs hold")
    cpus_per_trial: int = Field(1, ge=1, le=1024, description="also LightGBM's threads")
    max_rounds: int = Field(2000, ge=1, le=1_000_000, description="boosting rounds of a trial at most")
    early_stopping_rounds: int = Field(100, ge=1, description="rounds without a better mean over the folds")
    asha: AshaConfig | None = AshaConfig()
    models: int = Field(5, ge=1, le=100, description="the final predictor is the mean of the best trials' models")
    seed: int = Field(0, ge=0)
    space: dict[str, SearchRange] = Field(DEFAULT_SPACE, description="LightGBM parameter -> range")
    params: dict[str, bool | int | float | str] = Field({}, description="fixed LightGBM parameters")

    @model_validator(mode="after")
    def _no_overlap(self) -> TuneConfig:
        both = sorted(set(self.space) & set(self.params))
        if both:
            raise ValueError(f"{', '.join(both)} in 'space' and in 'params'; give each once")
        reserved = sorted({*self.space, *self.params} & _RESERVED)
        if reserved:
            raise ValueError(f"{', '.join(reserved)} set by smp_ray itself (rounds, threads, seed, metric)")
        return self


_RESERVED = {"num_iterations", "n_estimators", "num_threads", "n_jobs", "seed", "random_state", "metric", "verbosity"}


class AblationConfig(Section):
    """The ablation: every variant gets the same folds and the same candidate settings."""

    candidates: int = Field(4, ge=1, le=1000, description="settings tried by each variant: LightGBM's own, then drawn")


class TrainingConfig(Section):
    """From stored features to a predictor."""

    split: SplitConfig = SplitConfig()
    adapter: AdapterConfig = AdapterConfig()
    matrix: MatrixConfig = MatrixConfig()
    tune: TuneConfig = TuneConfig()
    baselines: tuple[Baseline, ...] = Field(("mean", "user_mean", "lightgbm_default", "ncku_dart"))
    ablation: AblationConfig = AblationConfig()
    resamples: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples of users for the intervals")


class CleaningConfig(Section):
    """Which posts count as low quality in the analysis (Figure 2); predictions are made for all posts regardless."""

    min_characters: int = Field(3, ge=0, description="a shorter title is too short")
    max_symbol_share: float = Field(0.5, ge=0, le=1, description="of a title's characters that are no letter or digit")
    camera_names: tuple[str, ...] = Field(
        (r"(?i)^(img|dsc|dscn|dscf|pict|image|photo|p|mvi|gopr|dji|sam|cimg|wp|screenshot)[ _-]*\d{2,}.*$",
         r"^[\d _.-]+$", r"(?i)^.*\.(jpe?g|png|gif|mp4|mov)$"),
        description="regular expressions of titles that are file names",
    )  # fmt: skip
    duplicates: bool = Field(True, description="a title that the same user has given before")
    no_image: bool = True
    bad_image: bool = True


class ReportConfig(Section):
    """The HTML report."""

    edges: tuple[float, ...] = Field(
        (2.0, 4.0, 6.0, 8.0, 10.0, 12.0), min_length=1, description="inner edges of the popularity intervals"
    )
    few_posts: int = Field(30, ge=1, description="intervals with fewer are shown as such")
    projection_posts: int = Field(1000, ge=50, le=20_000, description="sample of the t-SNE")
    neighbours: int = Field(20, ge=1, le=1000, description="of the regressor that compares the spaces")
    scatter_posts: int = Field(3000, ge=100, le=100_000, description="points of a scatter plot at most")
    gallery_posts: int = Field(8, ge=1, le=100, description="of each kind")
    shap_posts: int = Field(2000, ge=10, le=1_000_000, description="sample of the SHAP importances")
    cleaning: CleaningConfig = CleaningConfig()
    seed: int = Field(0, ge=0)

    @field_validator("edges")
    @classmethod
    def _rising(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if any(low >= high for low, high in itertools.pairwise(edges)):
            raise ValueError("edges in rising order, each once")
        return edges


class RayConfig(Section):
    """Where Ray runs."""

    address: str | None = Field(None, description="null: RAY_ADDRESS if set (inside a job), else this machine alone")
    num_cpus: int | None = Field(None, ge=1, description="logical CPUs of a local Ray; null: all, at least 4")
    num_gpus: int | None = Field(None, ge=0, description="GPUs of a local Ray; null: all")
    object_store_mb: int | None = Field(
        None, ge=80, description="local object store; null: 30 % of memory, at most 2048"
    )
    env: dict[str, str] = Field({}, description="environment variables of the workers (HF_HOME, AWS_…)")


class Config(Section):
    """The whole configuration."""

    workspace: str = Field(min_length=1, description="a folder or s3://bucket/prefix")
    source: Source
    features: FeaturesConfig = FeaturesConfig()
    training: TrainingConfig = TrainingConfig()
    report: ReportConfig = ReportConfig()
    ray: RayConfig = RayConfig()

    @field_validator("workspace")
    @classmethod
    def _known_place(cls, workspace: str) -> str:
        if "://" in workspace and not workspace.startswith(("s3://", "file://")):
            raise ValueError("a folder or s3://bucket/prefix")
        return workspace


class _Loader(yaml.SafeLoader):
    """YAML without keys given twice, of which the last would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{name}' is given twice", node.start_mark)
        return dict(super().construct_mapping(node, deep))


def load_config(path: str | Path, overrides: list[str] | None = None, workspace: str | None = None) -> Config:
    """Read and check a configuration file.

    Args:
        path: the YAML file. A relative `source.path` in it is taken from the current folder.
        overrides: `KEY=VALUE` settings, KEY dotted (`features.clip.batch_size=64`), VALUE in YAML.
        workspace: replaces the file's `workspace`.

    Raises:
        ConfigError: with every problem found, one line each.
    """
    return build_config(_read_yaml(Path(path)), overrides, workspace, name=str(path))


def build_config(
    raw: dict[str, Any], overrides: list[str] | None = None, workspace: str | None = None, name: str = "config"
) -> Config:
    """As `load_config`, from the mapping that a file would hold; `name` stands for the file in messages."""
    origin: dict[str, str] = {}
    for override in overrides or []:
        origin[_apply_override(raw, override)] = "--set"
    if workspace is not None:
        raw["workspace"] = workspace
        origin["workspace"] = "--workspace"
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error, name, origin))) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise ConfigError(f"{path}: {reason}; see configs/ for examples") from None
    try:
        raw = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: found {_shown(raw)}, allowed: a mapping with 'source' and 'features'")
    return raw


def _apply_override(raw: dict[str, Any], override: str) -> str:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set {override}: found no KEY=VALUE, allowed: for example features.clip.batch_size=64")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not YAML") from None
    node = raw
    for depth, part in enumerate(parts[:-1], start=1):
        child = node.setdefault(part, {})
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {'.'.join(parts[:depth])} is {_shown(child)}, not a section")
        node = child
    node[parts[-1]] = value
    return ".".join(parts)


#: Where the ranges of the search space are, whose discriminator pydantic puts into locations, too.
_SPACE = ("training", "tune", "space")


def _lines(error: ValidationError, path: str, origin: dict[str, str]) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False):
        key = _dotted(problem["loc"])
        where = next((origin[set_key] for set_key in origin if f"{key}.".startswith(f"{set_key}.")), path)
        if problem["type"] == "extra_forbidden":
            known = ", ".join(_known_keys(problem["loc"]))
            lines.append(f"{where}: {key}: unknown key, allowed: {known}" if known else f"{where}: {key}: unknown key")
        elif problem["type"] == "union_tag_invalid":
            kinds = problem["ctx"]["expected_tags"]
            tag = "type" if problem["loc"][:3] == _SPACE else "kind"
            lines.append(f"{where}: {key}.{tag}: found '{problem['ctx']['tag']}', allowed: {kinds}")
        elif problem["type"] == "union_tag_not_found":
            kinds = "'float', 'int', 'choice'" if problem["loc"][:3] == _SPACE else "see configs/"
            lines.append(
                f"{where}: {key}.{'type' if problem['loc'][:3] == _SPACE else 'kind'}: missing, allowed: {kinds}"
            )
        elif problem["type"] == "missing":
            lines.append(f"{where}: {key}: missing, it must be given")
        else:
            allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            lines.append(f"{where}: {key}: found {_shown(problem.get('input'))}, allowed: {allowed}")
    return lines


def _dotted(loc: tuple[int | str, ...]) -> str:
    # pydantic puts the discriminator's value into the location of a tagged union; users never wrote it.
    parts = [str(part) for part in loc]
    if len(parts) > 2 and parts[0] == "source":
        del parts[1]
    if parts[:3] == list(_SPACE) and len(parts) > 4:
        del parts[4]
    return ".".join(parts) or "(the whole file)"


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    model: Any = Config
    for place, part in enumerate(loc[:-1]):
        if part == "source":
            continue
        if loc[:3] == _SPACE and place >= 2:
            model = {"float": FloatRange, "int": IntRange, "choice": Choice}.get(str(part), model)
            continue
        kinds = {"demo": DemoSource, "smpd_image": SmpdImageSource, "smpd_video": SmpdVideoSource, "table": TableSource}
        model = kinds.get(str(part)) or model.model_fields[str(part)].annotation
        if not hasattr(model, "model_fields"):
            return []
    return list(model.model_fields)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
