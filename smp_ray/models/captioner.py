"""Captions of images with any image-to-text model of transformers: BLIP, BLIP-2, InstructBLIP, GIT, ...

`CaptionTransform` is the light half (the processor's resize and crop on the CPU, no weights), `Captioner` the heavy
half. Pixels travel between them as uint8; rescaling and normalising run on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from smp_ray.errors import ModelError
from smp_ray.models.images import limit_aspect
from smp_ray.models.loading import explained, load_whole, prepare, pretrained
from smp_ray.models.settings import CaptionerSettings, ModelSettings

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

    def __init__(self, settings: ModelSettings) -> None:
        """Load the processor, no weights, and try it on two shapes of picture.

        Raises:
            ModelError: if there is none, or its pictures have no fixed size.
        """
        self._processor = _image_processor(settings)
        with explained(settings.model):
            tried = [self._tried(_probe(width, height)) for width, height in ((48, 64), (96, 32))]
        if len(set(tried)) != 1:
            raise ModelError(
                f"the image processor of '{settings.model}' gives pictures of different sizes; "
                "models with a fixed picture size are supported (BLIP, BLIP-2, InstructBLIP, GIT, ...)"
            )
        self.shape = tried[0]

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Resize and crop one RGB image as the published processor does: uint8 (height, width, 3)."""
        # Only where the long side is cropped away again.
        if getattr(self._processor.size, "shortest_edge", None) and self._processor.do_center_crop:
            image = limit_aspect(image)
        return self._processed(image)

    def _processed(self, image: Image.Image) -> np.ndarray:
        pixels = self._processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:2] != (1, 3):
            raise ModelError(
                f"its image processor ({type(self._processor).__name__}) gives {pixels.dtype} of shape "
                f"{pixels.shape} where one 8-bit RGB picture is supported"
            )
        return np.ascontiguousarray(pixels[0].transpose(1, 2, 0))

    def _tried(self, image: Image.Image) -> tuple[int, int, int]:
        """Shape of the pixels; normalising them afterwards must give what the processor gives in one go."""
        pixels, whole = self._processed(image), self._processor(image, return_tensors="pt")["pixel_values"]
        ours = normalised(self._processor, pixels[None], whole.device)
        if ours.shape != whole.shape or float((ours - whole).abs().max()) > 1e-4:
            raise ModelError("its image processor does more than resize, crop and normalise")
        height, width, channels = pixels.shape
        return height, width, channels


class Captioner:
    """A loaded image-to-text model.

    Attributes:
        device: where the model runs.
    """

    def __init__(self, settings: CaptionerSettings, device: str | None = None, threads: int | None = None) -> None:
        """Load the model, its processor and the prompt's tokens; `device` and `threads` as in `prepare`.

        Raises:
            ModelError: if it cannot be loaded whole, or does not take the prompt.
        """
        from transformers import AutoModelForImageTextToText

        self.device, self._dtype = prepare(settings.dtype, device, threads)
        self._settings = settings
        self._image_processor = _image_processor(settings)
        arguments = pretrained(settings, EMBEDDED)
        with explained(settings.model):
            model = load_whole(AutoModelForImageTextToText, settings.model, dtype=self._dtype, **arguments)
            self._model = model.to(self.device).eval()
            self._processor, self._decode = _text_side(arguments)
            self._prompt = self._prompt_inputs()

    def caption(self, pixels: np.ndarray) -> list[str]:
        """Caption images that `CaptionTransform.pixels` prepared.

        Args:
            pixels: uint8 of shape (n, height, width, 3).

        Returns:
            n captions without special tokens and without the prompt.
        """
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
        texts = self._decode(tokens, skip_special_tokens=True)
        echoed = self._echoed(tokens)
        if echoed:
            # Decoded with the prompt before it, since the first token may go on with the prompt's last word; then cut
            # by what exactly these prompt tokens decode to.
            heads = self._decode(tokens[:, :echoed], skip_special_tokens=True)
            texts = [text[len(head) :] for text, head in zip(texts, heads, strict=True)]
        return [text.strip() for text in texts]

    def _echoed(self, tokens: torch.Tensor) -> int:
        """Length of the prompt at the front of the output: a decoder-only model repeats it, others do not."""
        prompt = self._prompt.get("input_ids")
        if prompt is None:
            return 0
        ids = prompt[0]
        if self._model.config.model_type == "blip":  # it replaces the first token and drops the last
            ids = ids[:-1].clone()
            ids[0] = self._model.config.text_config.bos_token_id
        length = len(ids)
        return length if tokens.shape[1] >= length and bool((tokens[:, :length] == ids).all()) else 0

    def _prompt_inputs(self) -> dict[str, torch.Tensor]:
        """What the processor makes of the prompt, for one picture, on the device."""
        import torch

        prompt, kind = self._settings.prompt, self._model.config.model_type
        if prompt is None:
            if kind == "instructblip":
                raise ModelError(f"'{self._settings.model}' (InstructBLIP) needs an instruction: set prompt")
            return {}
        if self._processor is None or kind == "vision-encoder-decoder":
            raise ModelError(f"'{self._settings.model}' ({kind}) takes no prompt: set prompt to null")
        if kind == "git":  # its processor would close the prompt with an end token, which ends the caption, too
            ids = self._processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            inputs = {"input_ids": torch.tensor([[self._processor.tokenizer.cls_token_id, *ids]])}
        else:
            inputs = dict(self._processor(images=_probe(64, 64), text=prompt, return_tensors="pt"))
        inputs.pop("pixel_values", None)
        return {name: value.to(self.device) for name, value in inputs.items()}


def normalised(processor: Any, pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """Rescale and normalise uint8 (n, height, width, 3) on the device as `processor` does: float32 (n, 3, h, w)."""
    import torch

    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).to(device)
    found: torch.Tensor = processor(
        list(images), do_resize=False, do_center_crop=False, input_data_format="channels_first", return_tensors="pt"
    )["pixel_values"]
    return found.to(device, torch.float32)


def _image_processor(settings: ModelSettings) -> Any:
    from transformers import AutoImageProcessor

    arguments = pretrained(settings, EMBEDDED)
    with explained(settings.model):
        return AutoImageProcessor.from_pretrained(**arguments)


def _text_side(arguments: dict[str, Any]) -> tuple[Any, Any]:
    """(the processor that takes a prompt, or None; what turns token ids into texts)."""
    from transformers import AutoProcessor, AutoTokenizer, ProcessorMixin

    processor = AutoProcessor.from_pretrained(**arguments)
    if isinstance(processor, ProcessorMixin):
        return processor, processor.batch_decode
    # Repositories such as vit-gpt2 hold an image processor and a tokenizer, and no common processor.
    tokenizer = AutoTokenizer.from_pretrained(**arguments)
    return None, tokenizer.batch_decode


def _probe(width: int, height: int) -> Image.Image:
    ramp = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3)
    return Image.fromarray((ramp * 7 % 256).astype(np.uint8))
