"""caption: what an image-to-text model says of the picture."""

from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field

from smp_ray.families.base import DESCRIPTION, IMAGE, BatchSize, Column, Family, ModelSettings
from smp_ray.models.identity import transformers_identity


class CaptionSettings(ModelSettings):
    """An image-to-text model of transformers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "Salesforce/blip-image-captioning-base"}]})

    prompt: str | None = Field(None, description="instruction, for models that take one")
    max_new_tokens: int = Field(20, ge=1, le=512, description="tokens a caption may have")
    num_beams: int = Field(1, ge=1, le=32)
    batch_size: BatchSize = Field(16, le=4096, description="images a forward pass; auto: found while it computes")


class Caption(Family):
    """Captions by BLIP, BLIP-2, InstructBLIP, GIT or another image-to-text model of transformers."""

    name = "caption"
    section = "captioner"
    Settings = CaptionSettings
    reads = (IMAGE,)
    columns = (Column("caption", pa.string(), role=DESCRIPTION),)
    by_default = True
    external = "captions by"
    gpu_dtype = "bfloat16"
    cost = 2.3

    def __init__(self, settings: CaptionSettings, device: str, threads: int | None) -> None:
        from smp_ray.models.captioner import Captioner

        self._captioner = Captioner(settings, device, threads)

    def compute(self, *inputs: list[Any]) -> dict[str, list[str]]:
        """Captions of uint8 pictures (height, width, 3)."""
        (images,) = inputs
        return {"caption": self._captioner.caption(np.stack(images))}

    @classmethod
    def transform(cls, settings: CaptionSettings) -> Any:
        """The published image processor."""
        from smp_ray.models.captioner import CaptionTransform

        return CaptionTransform(settings)

    @classmethod
    def identity(cls, settings: CaptionSettings) -> dict[str, Any]:
        """Of any model of transformers."""
        return transformers_identity(settings, embedded="captioner")
