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
from smp_ray.models.loading import explained, load_whole, model_folder, resolve_device, resolve_dtype, set_threads
from smp_ray.models.settings import CaptionerSettings, ModelSettings

if TYPE_CHECKING:
    import torch

#: The folder of the model that comes with the project.
EMBEDDED = "captioner"


class CaptionTransform:
    """The published image processor, up to the point where pixels are still uint8.

    Attributes:
        size: (height, width) of what `pixels` returns.
        shape, dtype: the whole of it, as of an array.
    """

    dtype = np.dtype("uint8")

    def __init__(self, settings: ModelSettings) -> None:
        """Load the processor, no weights, and try it on two shapes of picture.

        Raises:
            ModelError: if there is none, or its pictures have no fixed size.
        """
        self._processor = _image_processor(settings)
        shapes = set()
        with explained(settings.model):
            for width, height in ((48, 64), (96, 32)):
                shapes.add(self._processed(_probe(width, height)).shape)
        if len(shapes) != 1:
            raise ModelError(
                f"the image processor of '{settings.model}' gives pictures of different sizes; "
                "models with a fixed picture size are supported (BLIP, BLIP-2, InstructBLIP, GIT, ...)"
            )
        self.shape: tuple[int, int, int] = shapes.pop()
        self.size = self.shape[:2]
        self._check_separable(settings.model)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Resize and crop one RGB image as the published processor does.

        Returns:
            uint8 of shape (height, width, 3).
        """
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

    def _check_separable(self, model: str) -> None:
        """Rescaling and normalising our pixels must give what the processor gives in one go."""
        image = _probe(96, 64)
        whole = self._processor(image, return_tensors="pt")["pixel_values"]
        ours = normalised(self._processor, self._processed(image)[None], whole.device)
        if ours.shape != whole.shape or float((ours - whole).abs().max()) > 1e-4:
            raise ModelError(f"the image processor of '{model}' does more than resize, crop and normalise")


class Captioner:
    """A loaded image-to-text model.

    Attributes:
        device: where the model runs.
    """

    #: Of the weights on a GPU where the settings say 'auto'.
    GPU_DTYPE = "bfloat16"

    def __init__(self, settings: CaptionerSettings, device: str | None = None, threads: int | None = None) -> None:
        """Load the model, its processor and the prompt's tokens.

        Args:
            settings: which model, its prompt, decoding and batch size.
            device: None takes CUDA where there is one.
            threads: CPU threads of torch in this process; None leaves them.

        Raises:
            ModelError: if it cannot be loaded whole, or does not take the prompt.
        """
        from transformers import AutoModelForImageTextToText

        set_threads(threads)
        self.device = resolve_device(device)
        self._settings = settings
        self._dtype = resolve_dtype(settings.dtype, self.device, gpu_dtype=self.GPU_DTYPE)
        source, options = _source(settings)
        self._image_processor = _image_processor(settings)
        with explained(settings.model):
            model = load_whole(AutoModelForImageTextToText, source, settings.model, dtype=self._dtype, **options)
            self._processor, self._decode = _text_side(source, options)
        self._model = model.to(self.device).eval()
        with explained(settings.model):
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
        unknown = set(inputs) - {"input_ids", "attention_mask", "qformer_input_ids", "qformer_attention_mask"}
        if unknown:
            names = ", ".join(sorted(unknown))
            raise ModelError(f"inputs of '{self._settings.model}' that are not supported: {names}")
        return {name: value.to(self.device) for name, value in inputs.items()}


def normalised(processor: Any, pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """Rescale and normalise uint8 (n, height, width, 3) on the device as `processor` does: float32 (n, 3, h, w)."""
    import torch

    images = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2).contiguous()
    mean, std = processor.image_mean, processor.image_std
    if processor.backend == "torchvision":
        result: torch.Tensor = processor.rescale_and_normalize(
            images, processor.do_rescale, processor.rescale_factor, processor.do_normalize, mean, std
        )
        return result.to(torch.float32)
    images = images.to(torch.float32)
    if processor.do_rescale:
        images = images * processor.rescale_factor
    if processor.do_normalize:
        shape = (1, 3, 1, 1)
        images = (images - torch.tensor(mean, device=device).view(shape)) / torch.tensor(std, device=device).view(shape)
    return images


def _source(settings: ModelSettings) -> tuple[str, dict[str, Any]]:
    folder = model_folder(settings.model, EMBEDDED)
    return (str(folder), {}) if folder else (settings.model, {"revision": settings.revision})


def _image_processor(settings: ModelSettings) -> Any:
    from transformers import AutoImageProcessor

    source, options = _source(settings)
    with explained(settings.model):
        return AutoImageProcessor.from_pretrained(source, trust_remote_code=False, **options)


def _text_side(source: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """(the processor that takes a prompt, or None; what turns token ids into texts)."""
    from transformers import AutoProcessor, AutoTokenizer, ProcessorMixin

    processor = AutoProcessor.from_pretrained(source, trust_remote_code=False, **options)
    if isinstance(processor, ProcessorMixin):
        return processor, processor.batch_decode
    # Repositories such as vit-gpt2 hold an image processor and a tokenizer, and no common processor.
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    return None, tokenizer.batch_decode


def _probe(width: int, height: int) -> Image.Image:
    ramp = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3)
    return Image.fromarray((ramp * 7 % 256).astype(np.uint8))
