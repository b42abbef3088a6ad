"""CLIP embeddings of images and texts with any open_clip model, L2-normalised.

`ClipTransform` is the light half (resize and crop on the CPU, no weights), `ClipEmbedder` the heavy half (the model,
on its device). Pixels travel between them as uint8; scaling and normalising run on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from smp_ray.errors import ModelError
from smp_ray.models.batches import TOKENS_A_BATCH, by_length
from smp_ray.models.clip_source import clip_source
from smp_ray.models.device import collected, onto
from smp_ray.models.images import limit_aspect
from smp_ray.models.loading import explained, prepare
from smp_ray.models.settings import ClipSettings

if TYPE_CHECKING:
    import torch

#: Distinct words whose tokens are remembered; open_clip's own cache would grow for as long as the actor lives.
CACHED_WORDS = 100_000

_PRECISION = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
#: For models of which open_clip's fp16 and bf16 would leave parts in float32, which then do not fit together.
_WHOLE = {"float32": "fp32", "float16": "pure_fp16", "bfloat16": "pure_bf16"}


def clip_width(settings: ClipSettings) -> int:
    """Width of the model's embeddings, from its configuration alone.

    Raises:
        ModelError: if there is no such model, or its configuration names no `embed_dim`.
    """
    width = clip_source(settings).config()["model_cfg"].get("embed_dim")
    if not isinstance(width, int):
        raise ModelError(f"the configuration of model '{settings.model}' has no embed_dim")
    return width


class ClipTransform:
    """The model's own eval transform, up to the point where pixels are still uint8.

    Attributes:
        config: open_clip's preprocessing configuration.
        shape, dtype: of what `pixels` returns.
    """

    dtype = np.dtype("uint8")

    def __init__(self, settings: ClipSettings) -> None:
        """Read the preprocessing configuration; no weights are loaded.

        Raises:
            ModelError: if there is no such model.
        """
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from torchvision.transforms import Compose, Normalize, ToTensor

        with explained(settings.model):
            self.config = clip_source(settings).preprocessing()
            steps = image_transform_v2(PreprocessCfg(**self.config), is_train=False).transforms
        if not (isinstance(steps[-2], ToTensor) and isinstance(steps[-1], Normalize)):
            raise ModelError("this open_clip version does not end its transform with ToTensor and Normalize")
        self._steps = Compose(steps[:-2])
        size = self.config["size"]
        height, width = (size, size) if isinstance(size, int) else size
        self.shape = (int(height), int(width), 3)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Resize and crop one RGB image as open_clip does: uint8 (height, width, 3)."""
        if self.config["resize_mode"] == "shortest":  # and the long side is cropped away again
            image = limit_aspect(image)
        return np.array(self._steps(image), dtype=np.uint8)


class ClipEmbedder:
    """A loaded CLIP model.

    Attributes:
        width: of the embeddings.
        device: where the model runs.
    """

    def __init__(self, settings: ClipSettings, device: str | None = None, threads: int | None = None) -> None:
        """Load the model; `device` and `threads` as in `prepare`.

        Raises:
            ModelError: if the model cannot be loaded whole.
        """
        import open_clip
        import torch

        from smp_ray.models.clip_tower import CutText, shorten_last_block

        self.device, self._dtype = prepare(settings.dtype, device, threads)
        self._batch_size = settings.batch_size
        source = clip_source(settings)
        model_arguments, tokenizer_arguments = source.arguments()
        config = source.config()["model_cfg"]
        whole = "multimodal_cfg" in config or "hf_model_name" in config.get("text_cfg", {})
        with explained(settings.model):
            self._model = open_clip.create_model(
                **model_arguments,
                precision=(_WHOLE if whole else _PRECISION)[str(self._dtype).removeprefix("torch.")],
                device=self.device,
                pretrained_text=False,
                require_pretrained=True,
                weights_only=True,
            ).eval()
            self._tokenizer = open_clip.get_tokenizer(**tokenizer_arguments)
        self._special_tokens = dict(getattr(self._tokenizer, "cache", {}))
        shorten_last_block(self._model.visual)
        self._cut_text = CutText.of(self._model)
        self.width = clip_width(settings)
        self._context = int(getattr(self._tokenizer, "context_length", None) or 77)
        colours = self._model.visual.preprocess_cfg
        self._mean = torch.tensor(colours["mean"], device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(colours["std"], device=self.device).view(1, 3, 1, 1)

    def embed_images(self, pixels: np.ndarray) -> np.ndarray:
        """Embed images that `ClipTransform.pixels` prepared.

        Args:
            pixels: uint8 of shape (n, height, width, 3).

        Returns:
            float32 of shape (n, width), each row of unit norm.
        """
        import torch

        from smp_ray.models.adapter import unit

        parts = [torch.zeros(0, self.width)]
        with torch.inference_mode():
            for start in range(0, len(pixels), self._batch_size):
                part = torch.from_numpy(np.ascontiguousarray(pixels[start : start + self._batch_size]))
                images = onto(part, self.device).permute(0, 3, 1, 2).contiguous().to(torch.float32)
                images = images.div_(255).sub_(self._mean).div_(self._std)
                parts.append(unit(self._model.encode_image(images.to(self._dtype)).float()))
            return collected(parts)

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Embed texts of any length and script; what exceeds the model's context is cut by its tokenizer.

        Returns:
            float32 of shape (n, width), each row of unit norm.
        """
        import torch

        from smp_ray.models.adapter import unit

        if not texts:
            return np.zeros((0, self.width), np.float32)
        tokens, encode = self.tokenize(texts), self._cut_text or self._model.encode_text
        lengths = np.full(len(texts), tokens.shape[1])
        if self._cut_text is not None:
            lengths = self._cut_text.lengths(tokens).numpy()
        order, parts = [], []
        with torch.inference_mode():
            for rows in by_length(lengths, self._batch_size, TOKENS_A_BATCH[self.device.type]):
                part = tokens[torch.from_numpy(rows), : int(lengths[rows].max())]
                order.append(rows)
                parts.append(unit(encode(onto(part, self.device)).float()))
            return collected(parts)[np.argsort(np.concatenate(order))]

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """Token ids of shape (n, context length), padded."""
        cache = getattr(self._tokenizer, "cache", {})  # only open_clip's own tokenizer has one
        if len(cache) > CACHED_WORDS:
            cache.clear()
            cache.update(self._special_tokens)
        tokens: torch.Tensor = self._tokenizer([shorten(text, self._context) for text in texts])
        return tokens


def shorten(text: str, context_length: int) -> str:
    """Cut a text far beyond what `context_length` tokens can hold, so that tokenizing it takes no time.

    The longest token of CLIP's vocabulary has 32 characters, so the kept tokens lie well inside the 64 characters a
    token that are left; a shorter text is returned as it is. Runs of white space count as one character, as the
    tokenizers count them. (A word of 100,000 letters would take CLIP's tokenizer minutes, one of 4,928 takes 0.8 s.)
    """
    limit = 64 * context_length
    if len(text) <= limit:
        return text
    return " ".join(text.split())[:limit]
