"""What a feature family is: columns computed by one model from a post's image, its title, or earlier families.

A subclass says what it reads and gives, how its model is identified and loaded, and computes columns from a batch of
inputs. Everything else (which posts need it, identical inputs once, one bad item costing itself only, statuses, nulls,
types, placement, fingerprints) is done for all families alike, and every other part of the system (schema, export,
matrix, ablation, report, status) reads this description. To add one, see `registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
import pyarrow as pa
from pydantic import Field, PlainSerializer, WrapValidator, field_validator, model_validator

from smp_ray.models.loading import is_hub_name
from smp_ray.models.mirror import below
from smp_ray.section import Section

#: What a family may read besides columns of earlier families.
IMAGE, TITLE = "image", "title"
#: Groups of the matrix that come from the posts table itself, of what the adapters make of embeddings, and of what the
#: user did before.
METADATA, TEXT, ADAPTED, HISTORY = "metadata", "text", "adapted", "history"
#: Roles by which others ask for a column, whatever family has it.
IMAGE_EMBEDDING, TITLE_EMBEDDING, DESCRIPTION = "image_embedding", "title_embedding", "description"

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
#: `batch_size: auto` as a number.
AUTO = 0
BatchSize = Annotated[
    int,
    Field(ge=1),
    WrapValidator(lambda size, number: AUTO if size == "auto" else number(size)),
    PlainSerializer(lambda size: size or "auto"),
]


class FamilySettings(Section):
    """What the config section of every family has. These keys say how it is computed, never what comes out."""

    batch_size: BatchSize = Field(64, le=8192, description="inputs a call of the model; auto: found while it computes")
    num_gpus: float | None = Field(
        0.0, ge=0, le=64, description="GPUs an actor takes (no built-in model uses more than one); null: by placement"
    )
    num_cpus: float | None = Field(None, gt=0, le=1024, description="CPUs an actor takes; null: by placement")
    min_actors: int = Field(1, ge=1, le=10_000, description="actors that must start (spread placement)")
    max_actors: int | None = Field(None, ge=1, le=10_000, description="upper bound of the pool; null: by resources")
    memory_gb: float | None = Field(None, gt=0, description="memory an actor takes; null: not counted")
    gpu_memory_gb: float | None = Field(
        None, gt=0, description="GPU memory an actor takes; where known of all, models share a GPU that holds them"
    )
    gpu: str = Field("", description="kind of GPU that it needs, as Ray calls it (A100, L4, …); '': any")

    @field_validator("num_gpus")
    @classmethod
    def _whole_above_one(cls, num_gpus: float | None) -> float | None:
        if num_gpus is not None and num_gpus > 1 and num_gpus % 1:
            raise ValueError("a fraction of one GPU, or a whole number of them")
        return num_gpus

    @model_validator(mode="after")
    def _pool_bounds(self) -> FamilySettings:
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise ValueError(f"max_actors ({self.max_actors}) is below min_actors ({self.min_actors})")
        return self


class ModelSettings(FamilySettings):
    """A family's section where there is a model to be named."""

    model: str = Field("embedded", min_length=1, description="'embedded', a folder or its s3:// address, or a hub id")
    revision: str | None = Field(None, description="commit of a hub model; null: the newest, which is recorded")
    num_gpus: float | None = Field(
        None, ge=0, le=64, description="GPUs an actor takes (no built-in model uses more than one); null: by placement"
    )
    dtype: Dtype = Field("auto", description="auto: float32 on a CPU, on a GPU what suits the model")


@dataclass(frozen=True)
class Measure:
    """How the report shows a number of the posts.

    Attributes:
        label, short: in words ("similarity of title and caption"), and beside a post in the gallery ("title-caption").
        topic: of measures with one topic, the first that has values speaks for it in the summary and the gallery;
            "" keeps the measure out of both.
        largest, smallest: headings of the posts at either end, in the gallery.
        falling: what it means if the measure falls with popularity, for the summary.
        claim: what the paper claims, where it is that the measure falls with popularity.
    """

    label: str
    short: str
    scale: Literal["linear", "log"] = "linear"
    topic: str = ""
    largest: str = ""
    smallest: str = ""
    falling: str = ""
    claim: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a family.

    Attributes:
        name: unique over all families and the posts table.
        type: None: a vector of the model's width, stored as float16.
        group: of the matrix and the ablation; None: not for a predictor.
        role: by which others ask for it (`IMAGE_EMBEDDING`, `TITLE_EMBEDDING`, `DESCRIPTION`).
    """

    name: str
    type: pa.DataType | None
    group: str | None = None
    role: str | None = None
    measure: Measure | None = None


class ImageTransform(Protocol):
    """What a family does to a decoded image, on the CPU; `shape` and `dtype` are those of all that `pixels` returns."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def pixels(self, image: Any) -> np.ndarray:
        """An RGB `PIL.Image.Image` as the model's input."""


class Family(ABC):
    """A feature family; an instance is its loaded model.

    Attributes:
        name: as in `features.families` and in `<name>_status`; lower case, no blanks.
        section: key of its config section under `features`; "" for `name`.
        reads: `IMAGE`, `TITLE` or columns of earlier families. The first decides the status (`no_image`, `bad_image`,
            `no_text` where it is missing); any other may be missing (None).
        partial: whether a post that lacks the first input, but has another, is computed all the same, for the columns
            that it can have.
        version: raised when the same settings and model would give other values.
        by_default: whether it is computed where `features.families` is not given.
        gpu_dtype: what dtype `auto` means on a GPU.
        cost: seconds that a post takes on one core of a CPU, roughly; placement divides a cluster by it.
        about: how to read its measures, a sentence or two for the report.
        external: what its pre-trained model gives ("captions by"), before the model's name in the challenge's
            submission file; "" without a model.
    """

    name: ClassVar[str]
    section: ClassVar[str] = ""
    Settings: ClassVar[type[FamilySettings]]
    reads: ClassVar[tuple[str, ...]]
    partial: ClassVar[bool] = False
    columns: ClassVar[tuple[Column, ...]]
    version: ClassVar[int] = 1
    by_default: ClassVar[bool] = False
    gpu_dtype: ClassVar[str] = "float32"
    cost: ClassVar[float] = 0.05
    about: ClassVar[str] = ""
    external: ClassVar[str] = ""

    @abstractmethod
    def __init__(self, settings: Any, device: str, threads: int | None) -> None:
        """Load the model, or raise a `ModelError`.

        `settings` is the section, with revision and dtype of the fingerprint and a number for its batch size; `device`
        is "cuda" or "cpu"; `threads` are torch's, and None leaves its own choice.
        """

    @abstractmethod
    def compute(self, *inputs: list[Any]) -> Mapping[str, Sequence[Any] | np.ndarray]:
        """Columns of n posts.

        Args:
            inputs: for each of `reads` a list of n: arrays of the transform for `IMAGE` (equal pictures are one
                object), else values of the column. Only a `partial` family finds None in the first list.

        Returns:
            For every column n values; None (or a row of NaN for a vector) where there is none. A post without any
            value is recorded as lacking the first input. An exception costs only the posts that cause it.
        """

    @classmethod
    def transform(cls, settings: Any) -> ImageTransform | None:
        """The light half, for families that read the image; loads no weights."""
        return None

    @classmethod
    def identity(cls, settings: Any) -> dict[str, Any]:
        """What identifies the model, as JSON; {} without one.

        {"name", "files": {name: digest}} for files at hand, {"name", "revision"} for a commit of a hub. Equal
        identities and settings must mean equal values. Called once a run, without loading the model.

        Raises:
            ModelError: there is no such model.
        """
        return {}

    @classmethod
    def mirrored(cls, settings: Any, mirror: str) -> Any:
        """The settings with the address in a mirror of models in place of a name on the hub; see `models.mirror`."""
        model = getattr(settings, "model", None)
        if model is None or not is_hub_name(model):
            return settings
        return settings.model_copy(update={"model": below(mirror, model)})

    @classmethod
    def width(cls, settings: Any) -> int:
        """Width of its vectors, 0 without any."""
        return 0

    @classmethod
    def submission(cls, settings: Any) -> str:
        """The pre-trained model behind it in words, for the challenge's submission file; "" without one."""
        names = (getattr(settings, key, None) for key in ("model", "pretrained"))
        return " ".join(filter(None, (cls.external, *names))) if cls.external else ""

    @classmethod
    def key(cls) -> str:
        """Key of the config section."""
        return cls.section or cls.name

    @classmethod
    def fields(cls, width: int = 0) -> list[pa.Field]:
        """The stored columns, status and error last; `width` is that of its vectors."""
        vector = pa.list_(pa.float16(), width)
        own = [pa.field(column.name, vector if column.type is None else column.type) for column in cls.columns]
        return [*own, pa.field(f"{cls.name}_status", pa.string()), pa.field(f"{cls.name}_error", pa.string())]
