"""The `report` section."""

import itertools
import re

from pydantic import Field, field_validator

from smp_ray.section import Section


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

    @field_validator("camera_names")
    @classmethod
    def _expressions(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"regular expressions; {pattern!r} is none: {error}") from None
        return patterns


class ReportConfig(Section):
    """The HTML report."""

    edges: tuple[float, ...] | None = Field(
        None, min_length=1, description="inner edges of the popularity intervals; null: rounded quantiles"
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
    def _rising(cls, edges: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if edges and any(low >= high for low, high in itertools.pairwise(edges)):
            raise ValueError("edges in rising order, each once")
        return edges
