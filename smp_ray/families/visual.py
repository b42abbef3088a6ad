"""visual: numbers of the picture itself, by no model.

Pillow resizes and gives the entropy, SciPy the Laplacian and the gradients: both are there anyway. A photograph of 500
pixels takes about 10 ms; OpenCV would take about a third of that, and 150 MB of disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import Field

from smp_ray.families.base import IMAGE, Column, Family, FamilySettings, Measure
from smp_ray.models.images import WHOLE

#: Weights of red, green and blue in luma (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


class VisualSettings(FamilySettings):
    """Numbers of the picture itself."""

    side: int = Field(
        512, ge=16, le=4096, description="pixels of the longer side at which pictures are compared; smaller ones grow"
    )
    edge: float = Field(
        100.0, gt=0, description="length of the luma gradient (3x3 Sobel) from which a pixel is an edge"
    )


def _number(name: str, label: str, kind: pa.DataType, scale: str = "linear") -> Column:
    measure = Measure(label, label.partition(" of")[0], scale=scale)  # type: ignore[arg-type]
    return Column(f"image_{name}", kind, group="visual", measure=measure)


class Visual(Family):
    """Size, light, colour and detail of a picture.

    Width and height are those of the picture as it is shown (EXIF orientation applied), in pixels, and the aspect ratio
    is width over height. Everything else is measured after resizing the longer side to `side` pixels (bicubic, with
    antialiasing), so that it compares between pictures of different sizes. Luma is 0.299 R + 0.587 G + 0.114 B, 0 to
    255; rg is R - G, and yb is (R + G) / 2 - B.

    | column | definition |
    | --- | --- |
    | brightness | mean luma |
    | contrast | standard deviation of luma |
    | saturation | mean of (max - min) / max over R, G, B of a pixel, 0 for black; 0 to 1 |
    | colourfulness | sqrt(sd(rg)^2 + sd(yb)^2) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2) |
    | sharpness | variance of luma's Laplacian (4 neighbours, edges mirrored) |
    | luma_entropy | Shannon entropy of luma rounded to whole numbers, in bits; 0 to 8 |
    | edge_share | share of pixels whose luma gradient (3x3 Sobel, edges mirrored) is at least `edge` long |

    Colourfulness: Hasler and Süsstrunk, Measuring colourfulness in natural images, 2003. Sharpness: Pech-Pacheco et
    al., Diatom autofocusing in brightfield microscopy, 2000.
    """

    name = "visual"
    Settings = VisualSettings
    reads = (IMAGE,)
    columns = (
        _number("width", "width of the picture", pa.int32(), "log"),
        _number("height", "height of the picture", pa.int32(), "log"),
        _number("aspect_ratio", "aspect ratio of the picture", pa.float32(), "log"),
        _number("brightness", "brightness of the picture", pa.float32()),
        _number("contrast", "contrast of the picture", pa.float32()),
        _number("saturation", "saturation of the picture", pa.float32()),
        _number("colourfulness", "colourfulness of the picture", pa.float32()),
        _number("sharpness", "sharpness of the picture", pa.float32(), "log"),
        _number("luma_entropy", "entropy of the picture's luma", pa.float32()),
        _number("edge_share", "share of edge pixels", pa.float32()),
    )
    about = "Numbers of the picture itself are measured at one size, so that they compare between pictures."

    def __init__(self, settings: VisualSettings, device: str, threads: int | None) -> None:
        """There is no model."""

    def compute(self, *inputs: list[Any]) -> dict[str, Any]:
        """The numbers, as the transform measured them where the picture was decoded."""
        (pictures,) = inputs
        return dict(zip((column.name for column in self.columns), np.stack(pictures).T, strict=True))

    @classmethod
    def transform(cls, settings: VisualSettings) -> VisualTransform:
        """Measures a decoded picture: ten numbers travel on, no pixels."""
        return VisualTransform(settings)


class VisualTransform:
    """Measures pictures; see `Visual` for what."""

    shape = (len(Visual.columns),)
    dtype = np.dtype(np.float64)

    def __init__(self, settings: VisualSettings) -> None:
        self._settings = settings

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The numbers of one RGB picture, float64 (10,)."""
        from scipy import ndimage

        width, height = image.info.get(WHOLE, image.size)
        scale = self._settings.side / max(image.size)
        size = [max(1, round(length * scale)) for length in image.size]
        resized = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
        red, green, blue = (np.asarray(channel, dtype=np.float32) for channel in resized.split())
        luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
        brightest = np.maximum(np.maximum(red, green), blue)
        darkest = np.minimum(np.minimum(red, green), blue)
        saturation = (brightest - darkest) / np.where(brightest > 0, brightest, 1)
        gradient = np.hypot(*(ndimage.sobel(luma, axis, mode="mirror") for axis in (0, 1)))
        laplacian = ndimage.laplace(luma, mode="mirror")
        return np.array(
            [
                width, height, width / height, luma.mean(dtype=np.float64),
                luma.std(dtype=np.float64), saturation.mean(dtype=np.float64),
                colourfulness(red, green, blue), laplacian.var(dtype=np.float64),
                Image.fromarray(np.rint(luma).astype(np.uint8)).entropy(),
                (gradient >= self._settings.edge).mean(),
            ]
        )  # fmt: skip


def colourfulness(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> float:
    """Hasler and Süsstrunk's M3 of a picture's channels, each (height, width), 0 to 255."""
    opponents = red - green, (red + green) / 2 - blue
    spread = np.hypot(*(values.std(dtype=np.float64) for values in opponents))
    middle = np.hypot(*(values.mean(dtype=np.float64) for values in opponents))
    return float(spread + 0.3 * middle)
