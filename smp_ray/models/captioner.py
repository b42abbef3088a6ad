"""Captions of images with any image-to-text model of transformers: BLIP, BLIP-2, InstructBLIP, GIT, ...

`CaptionTransform` is the light half (the processor's resize and crop on the CPU, no weights), `Captioner` the heavy
half. Pixels travel between them as uint8; rescaling and normalising run on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from smp_ray.errors import ModelError
from smp_ray.models.device import onto
from smp_ray.models.images import limit_aspect
from smp_ray.models.loading import explained, load_whole, prepare, pretrained
from smp_ray.models.settings import CaptionerSettings

if TYPE_CHECKING:
    import torch

#: The folder of the model that comes with the project.
EMBEDDED = "captioner"


class CaptionTransform:
    """The published image processor, up to the point where pixels are still uint8.

    Attributes:
        shape, dtype: of what `pixels` returns.
    """

    dtype = np.dtype("uint8")

    def __init__(self, settings: CaptionerSettings) -> None:
        """Load the processor, no weights, and try it on two shapes of picture.

        Raises:
            ModelError: if there is none, its pictures have no fixed size, or `normalised` cannot finish them.
        """
        self._processor = _image_processor(settings)
        with explained(settings.model):
            for probe in (_probe(48, 64), _probe(96, 32)):
                pixels, whole = self.pixels(probe), self._processor(probe, return_tensors="pt")["pixel_values"]
                ours = normalised(self._processor, pixels[None], whole.device)
                if pixels.dtype != self.dtype or ours.shape != whole.shape or (ours - whole).abs().max() > 1e-4:
                    raise ModelError("its image processor does more than resize, crop and normalise 8-bit pictures")
                if pixels.shape != getattr(self, "shape", pixels.shape):
                    raise ModelError(
                        "its image processor gives pictures of different sizes; "
                        "models with a fixed picture size are supported (BLIP, BLIP-2, InstructBLIP, GIT, ...)"
                    )
                self.shape = pixels.shape

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Resize and crop one RGB image as the published processor does: uint8 (height, width, 3)."""
        # Only where the long side is cropped away again.
        if getattr(self._processor.size, "shortest_edge", None) and self._processor.do_center_crop:
            image = limit_aspect(image)
        pixels = self._processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
        return np.ascontiguousarray(pixels[0].transpose(1, 2, 0))


class Captioner:
    """A loaded image-to-text model, on `device`."""

    def __init__(self, settings: CaptionerSettings, device: str | None = None, threads: int | None = None) -> None:
        """Load the model, its processor and the prompt's tokens; `device` and `threads` as in `prepare`.

        Raises:
            ModelError: if it cannot be loaded whole, or does not take the prompt.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, ProcessorMixin

        from smp_ray.models.fused_attention import fuse_attention

        self.device, self._dtype = prepare(settings.dtype, device, threads)
        self._settings = settings
        self._image_processor = _image_processor(settings)
        arguments = pretrained(settings, EMBEDDED)
        with explained(settings.model):
            model = load_whole(AutoModelForImageTextToText, settings.model, dtype=self._dtype, **arguments)
            self._model = model.to(self.device).eval()
            fuse_attention(self._model)
            self._processor: Any = AutoProcessor.from_pretrained(**arguments)
            if not isinstance(self._processor, ProcessorMixin):  # such as vit-gpt2: no processor of images and texts
                self._processor = AutoTokenizer.from_pretrained(**arguments)
            self._prompt = self._prompt_inputs()

    def caption(self, pixels: np.ndarray) -> list[str]:
        """Captions without special tokens and prompt, of pixels of `CaptionTransform`: uint8 (n, height, width, 3)."""
        captions: list[str] = []
        for start in range(0, len(pixels), self._settings.batch_size):
            captions += self._caption_batch(pixels[start : start + self._settings.batch_size])
        return captions

    def _caption_batch(self, pixels: np.ndarray) -> list[str]:
        import torch

        images = normalised(self._image_processor, pixels, self.device).to(self._dtype)
        # BLIP's generate writes into its input_ids, so every batch gets its own copy of the prompt.
        prompt = {name: value.repeat(len(pixels), *[1] * (value.ndim - 1)) for name, value in self._prompt.items()}
        with torch.inference_mode():
            tokens = self._model.generate(
                pixel_values=images,
                max_new_tokens=self._settings.max_new_tokens,
                num_beams=self._settings.num_beams,
                do_sample=False,
                **prompt,
            )
        texts = [text.strip() for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]
        if self._prompt and not self._model.config.get_text_config().is_encoder_decoder:
            # A decoder repeats the prompt. Cut as a text, since the first token may go on with the prompt's last word.
            (head,) = self._processor.batch_decode(self._prompt["input_ids"], skip_special_tokens=True)
            texts = [text.removeprefix(head.strip()).strip() for text in texts]
        return texts

    def _prompt_inputs(self) -> dict[str, torch.Tensor]:
        """What the processor makes of the prompt, for one picture, on the device."""
        prompt, kind = self._settings.prompt, self._model.config.model_type
        if prompt is None and kind == "instructblip":
            raise ModelError(f"'{self._settings.model}' (InstructBLIP) needs an instruction: set prompt")
        if prompt is None:
            return {}
        if kind == "vision-encoder-decoder":
            raise ModelError(f"'{self._settings.model}' ({kind}) takes no prompt: set prompt to null")
        inputs = dict(self._processor(images=_probe(64, 64), text=prompt, return_tensors="pt"))
        del inputs["pixel_values"]
        if kind == "git":  # its processor closes the prompt with an end token, which would end the caption, too
            inputs = {"input_ids": inputs["input_ids"][:, :-1]}
        return {name: value.to(self.device) for name, value in inputs.items()}


def normalised(processor: Any, pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """Rescale and normalise uint8 (n, height, width, 3) on the device as `processor` does: float32 (n, 3, h, w)."""
    import torch

    images = onto(torch.from_numpy(np.ascontiguousarray(pixels)), device).permute(0, 3, 1, 2)
    found: torch.Tensor = processor(
        list(images), do_resize=False, do_center_crop=False, input_data_format="channels_first", return_tensors="pt"
    )["pixel_values"]
    return found.to(device, torch.float32)


def _image_processor(settings: CaptionerSettings) -> Any:
    from transformers import AutoImageProcessor

    arguments = pretrained(settings, EMBEDDED, weights=False)
    with explained(settings.model):
        return AutoImageProcessor.from_pretrained(**arguments)


def _probe(width: int, height: int) -> Image.Image:
    ramp = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3)
    return Image.fromarray((ramp * 7 % 256).astype(np.uint8))
