"""The `features` section: what is the same for all families; each family's own section is in its file."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, create_model

from smp_ray.errors import FamilyError
from smp_ray.families.base import FamilySettings
from smp_ray.families.registry import families
from smp_ray.section import Section, without_repeats


def _known(name: str) -> str:
    if name not in families():
        raise ValueError(", ".join(families()))
    return name


def _some(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError(f"at least one of {', '.join(families())}")
    return without_repeats(names)


def _by_default() -> tuple[str, ...]:
    return tuple(name for name, family in families().items() if family.by_default)


class ImagesConfig(Section):
    """How images are fetched and decoded."""

    timeout_s: float = Field(20.0, gt=0, le=600, description="for one image over the network")
    max_bytes: int = Field(64 * 2**20, ge=1024, description="largest encoded image taken")
    max_pixels: int = Field(100_000_000, ge=1, description="largest image decoded, checked before decoding")
    threads: int = Field(8, ge=1, le=256, description="parallel fetches of one worker")

    @property
    def limits(self) -> dict[str, int]:
        """What decides which images are decoded."""
        return {"max_bytes": self.max_bytes, "max_pixels": self.max_pixels}


class FeaturesConfig(Section):
    """The feature pass. Each family adds its own section under its key, see `features_class`."""

    families: Annotated[tuple[Annotated[str, AfterValidator(_known)], ...], AfterValidator(_some)] = Field(
        default_factory=_by_default, description="families that are computed"
    )
    images: ImagesConfig = ImagesConfig()
    placement: Literal["auto", "spread", "colocated"] = "auto"
    workers: int | None = Field(None, ge=1, le=10_000, description="colocated actors; null: by resources")
    rows_per_block: int | None = Field(
        None, ge=1, le=1_000_000, description="posts a block and at least a file: the unit that is kept on a crash"
    )

    def section(self, family: str) -> FamilySettings:
        """The section of a family, configured or not."""
        return getattr(self, families()[family].key())

    @property
    def sections(self) -> dict[str, FamilySettings]:
        """The sections of the configured families, in the store's order."""
        return {name: self.section(name) for name in families() if name in self.families}


def features_class() -> type[FeaturesConfig]:
    """The section with a key for each family that is installed; FamilyError where one is the section's own."""
    fields: dict[str, Any] = {}
    for name, family in families().items():
        if family.key() in FeaturesConfig.model_fields:
            raise FamilyError(f"the family {name}: features.{family.key()} is a key of smp_ray itself")
        fields[family.key()] = (family.Settings, family.Settings())
    return create_model("FeaturesConfig", __base__=FeaturesConfig, **fields)
