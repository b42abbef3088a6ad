"""clip: embeddings of image, title and caption by one CLIP model, and how far they agree."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field

from smp_ray.errors import ModelError
from smp_ray.families import base
from smp_ray.families.base import IMAGE, TITLE, BatchSize, Column, Family, Measure, ModelSettings
from smp_ray.models.clip_source import HUB_PREFIX, clip_source


class ClipSettings(ModelSettings):
    """An open_clip model."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}]}
    )

    model: str = Field(
        "embedded",
        min_length=1,
        description="'embedded', a folder or its s3:// address, an open_clip name, or hf-hub:org/name",
    )
    pretrained: str | None = Field(None, description="open_clip weights tag or a weights file")
    batch_size: BatchSize = Field(
        64, le=8192, description="images or texts a forward pass; auto: found while it computes"
    )


def _similarity(one: str, other: str, topic: str = "inconsistency") -> Column:
    measure = Measure(
        f"similarity of {one} and {other}",
        f"{one}-{other}",
        topic=topic,
        largest=f"Most consistent {one} and {other}",
        smallest=f"Least consistent {one} and {other}",
        falling="so the two disagree more in popular posts",
        claim="Image and text disagree more in popular posts" if topic else "",
    )
    return Column(f"similarity_{one}_{other}", pa.float32(), group="similarity", measure=measure)


class Clip(Family):
    """Unit vectors of image, title and caption, and their cosine similarities.

    The similarity of title and caption is the paper's measure of image-text inconsistency (Hsu et al., ACM MM 2024).
    """

    name = "clip"
    Settings = ClipSettings
    reads = (IMAGE, TITLE, "caption")
    partial = True
    columns = (
        Column("clip_image", None, group="clip", role=base.IMAGE_EMBEDDING),
        Column("clip_title", None, group="clip", role=base.TITLE_EMBEDDING),
        Column("clip_caption", None, group="clip"),
        _similarity("title", "caption"),
        _similarity("image", "title"),
        _similarity("image", "caption", topic=""),
    )
    by_default = True
    external = "CLIP embeddings by"
    gpu_dtype = "float16"
    cost = 0.13
    about = (
        "Similarity is the cosine of two CLIP embeddings: the lower, the more image and text disagree. "
        "Similarities with the caption need a family that writes captions."
    )

    def __init__(self, settings: ClipSettings, device: str, threads: int | None) -> None:
        from smp_ray.models.clip_embedder import ClipEmbedder

        self._embedder = ClipEmbedder(settings, device, threads)

    def compute(self, *inputs: list[Any]) -> dict[str, np.ndarray]:
        """Embeddings of pictures (height, width, 3), titles and captions, and the cosines of each pair."""
        images, titles, captions = inputs
        width = self._embedder.width
        image = each_once(images, lambda some: self._embedder.embed_images(np.stack(some)), width)
        texts = each_once([*titles, *captions], self._embedder.embed_texts, width)
        title, caption = texts[: len(titles)], texts[len(titles) :]
        return {
            "clip_image": image,
            "clip_title": title,
            "clip_caption": caption,
            "similarity_title_caption": cosine(title, caption),
            "similarity_image_title": cosine(image, title),
            "similarity_image_caption": cosine(image, caption),
        }

    @classmethod
    def transform(cls, settings: ClipSettings) -> Any:
        """The model's own eval transform."""
        from smp_ray.models.clip_embedder import ClipTransform

        return ClipTransform(settings)

    @classmethod
    def identity(cls, settings: ClipSettings) -> dict[str, Any]:
        """Of any open_clip model."""
        return clip_source(settings).identity()

    @classmethod
    def mirrored(cls, settings: ClipSettings, mirror: str) -> Any:
        """As for every family; a weights file stays where it is, and a tag, which no mirror can name, is refused."""
        if settings.pretrained is None:
            name = settings.model.removeprefix(HUB_PREFIX)
            return super().mirrored(settings.model_copy(update={"model": name}), mirror)
        source = clip_source(settings)
        if source.kind == "tag":
            instead = f"hf-hub:{source.place}" if source.in_repository else "a folder"
            raise ModelError(
                f"'{settings.pretrained}' is a tag of open_clip, whose weights no mirror of models is asked for: "
                f"set model to {instead} and pretrained to null"
            )
        return settings

    @classmethod
    def width(cls, settings: ClipSettings) -> int:
        """`embed_dim` of the model."""
        from smp_ray.models.clip_embedder import clip_width

        return clip_width(settings)


def each_once(items: Sequence[Any], embed: Callable[[list[Any]], np.ndarray], width: int) -> np.ndarray:
    """Embeddings, float32 (n, width), of items with repeats: each distinct one is embedded once; NaN for None."""
    keys = [id(item) if isinstance(item, np.ndarray) else item for item in items]  # equal pictures are one object
    distinct = {key: item for key, item in zip(keys, items, strict=True) if item is not None}
    vectors = embed(list(distinct.values())) if distinct else np.zeros((0, width), dtype=np.float32)
    row_of = {key: row for row, key in enumerate(distinct)}
    rows = [row_of.get(key, -1) for key in keys]
    return np.vstack([vectors, np.full((1, width), np.nan, dtype=np.float32)])[rows]


def cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosine of unit vectors (n, width), float32 (n,), clipped to [-1, 1] against rounding; NaN where either is."""
    values = np.einsum("ij,ij->i", left, right, dtype=np.float64)
    return np.clip(values, -1, 1).astype(np.float32)
