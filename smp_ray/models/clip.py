"""CLIP embeddings of images and texts with any open_clip model, L2-normalised.

`ClipTransform` is the light half (resize and crop on the CPU, no weights), `ClipEmbedder` the heavy half (the model,
on its device). Pixels travel between them as uint8; scaling and normalising run on the device.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from smp_ray.config import ClipConfig
from smp_ray.errors import ModelError
from smp_ray.models.identity import no_weights
from smp_ray.models.loading import explained, model_folder, resolve_device, resolve_dtype, set_threads

if TYPE_CHECKING:
    import torch

#: Above this aspect ratio only the middle of a picture is resized; see `ClipTransform.pixels`.
LONGEST_ASPECT = 32
#: Distinct words whose tokens are remembered; open_clip's own cache would grow for as long as the actor lives.
CACHED_WORDS = 100_000

_PRECISION = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def clip_width(settings: ClipConfig) -> int:
    """Width of the model's embeddings, from its configuration alone.

    Raises:
        ModelError: if there is no such model, or its configuration names no `embed_dim`.
    """
    config = _open_clip_config(settings)["model_cfg"]
    width = config.get("embed_dim")
    if not isinstance(width, int):
        raise ModelError(f"clip: the configuration of model '{settings.model}' has no embed_dim")
    return width


class ClipTransform:
    """The model's own eval transform, up to the point where pixels are still uint8.

    Attributes:
        size: (height, width) of what `pixels` returns.
    """

    def __init__(self, settings: ClipConfig) -> None:
        """Read the preprocessing configuration; no weights are loaded.

        Raises:
            ModelError: if there is no such model.
        """
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from torchvision.transforms import Compose, Normalize, ToTensor

        with explained("clip", settings.model):
            self.config = _preprocess_config(settings)
            steps = image_transform_v2(PreprocessCfg(**self.config), is_train=False).transforms
        if not (isinstance(steps[-2], ToTensor) and isinstance(steps[-1], Normalize)):
            raise ModelError("clip: this open_clip version does not end its transform with ToTensor and Normalize")
        self._steps = Compose(steps[:-2])
        size = self.config["size"]
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Resize and crop one RGB image as open_clip does.

        Resizing the short side of a 1 x 10,000 picture to 224 would take 1.5 GB to keep 224 x 224 of it; where the
        long side would be cropped away again, at most `LONGEST_ASPECT` times the short side around the middle is
        resized. That moves the sampling grid by less than one output pixel and touches no ordinary picture.

        Returns:
            uint8 of shape (height, width, 3).
        """
        if self.config["resize_mode"] == "shortest":
            image = limit_aspect(image)
        return np.array(self._steps(image), dtype=np.uint8)


def limit_aspect(image: Image.Image) -> Image.Image:
    """Cut an image longer than `LONGEST_ASPECT` times its short side down to its middle."""
    width, height = image.size
    longest = LONGEST_ASPECT * min(width, height)
    if max(width, height) <= longest:
        return image
    # An even remainder keeps the middle where it was.
    cut_x = (width - longest) // 2 if width > longest else 0
    cut_y = (height - longest) // 2 if height > longest else 0
    return image.crop((cut_x, cut_y, width - cut_x, height - cut_y))


class ClipEmbedder:
    """A loaded CLIP model.

    Attributes:
        width: of the embeddings.
        device: where the model runs.
    """

    def __init__(self, settings: ClipConfig, device: str | None = None, threads: int | None = None) -> None:
        """Load the model.

        Args:
            settings: which model, its dtype and batch size.
            device: None takes CUDA where there is one.
            threads: CPU threads of torch in this process; None leaves them.

        Raises:
            ModelError: if the model cannot be loaded whole.
        """
        import open_clip
        import torch

        from smp_ray.models.clip_tower import shorten_last_block

        set_threads(threads)
        self.device = resolve_device(device)
        self._batch_size = settings.batch_size
        dtype = resolve_dtype(settings.dtype, "clip", self.device)
        name, pretrained = _open_clip_names(settings)
        tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
        with explained("clip", settings.model):
            self._model = open_clip.create_model(
                name,
                pretrained=pretrained,
                precision=_PRECISION[str(dtype).removeprefix("torch.")],
                device=self.device,
                # Weights trained with QuickGELU are silently wrong without it; open_clip only warns.
                force_quick_gelu=bool(tag.get("quick_gelu", False)),
                pretrained_text=False,
                require_pretrained=True,
                weights_only=True,
            ).eval()
            self._tokenizer = open_clip.get_tokenizer(name)
        shorten_last_block(self._model.visual)
        self._dtype = dtype
        self.width = clip_width(settings)
        self._context = int(getattr(self._tokenizer, "context_length", None) or 77)
        config = self._model.visual.preprocess_cfg
        self._mean = torch.tensor(config["mean"], device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(config["std"], device=self.device).view(1, 3, 1, 1)

    def embed_images(self, pixels: np.ndarray) -> np.ndarray:
        """Embed images that `ClipTransform.pixels` prepared.

        Args:
            pixels: uint8 of shape (n, height, width, 3).

        Returns:
            float32 of shape (n, width), each row of unit norm.
        """
        import torch

        rows = []
        with torch.inference_mode():
            for start in range(0, len(pixels), self._batch_size):
                batch = torch.from_numpy(np.ascontiguousarray(pixels[start : start + self._batch_size]))
                images = batch.to(self.device).permute(0, 3, 1, 2).contiguous().to(torch.float32)
                images = images.div_(255).sub_(self._mean).div_(self._std)
                rows.append(self._unit(self._model.encode_image(images.to(self._dtype))))
        return np.concatenate(rows) if rows else np.zeros((0, self.width), np.float32)

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Embed texts of any length and script; what exceeds the model's context is cut by its tokenizer.

        Returns:
            float32 of shape (n, width), each row of unit norm.
        """
        import torch

        rows = []
        with torch.inference_mode():
            for start in range(0, len(texts), self._batch_size):
                tokens = self.tokenize(texts[start : start + self._batch_size])
                rows.append(self._unit(self._model.encode_text(tokens.to(self.device))))
        return np.concatenate(rows) if rows else np.zeros((0, self.width), np.float32)

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """Token ids of shape (n, context length), padded."""
        cache = getattr(self._tokenizer, "cache", None)
        if isinstance(cache, dict) and len(cache) > CACHED_WORDS:
            special = {token: token for token in cache if cache[token] == token and token.startswith("<")}
            cache.clear()
            cache.update(special)
        tokens: torch.Tensor = self._tokenizer([shorten(text, self._context) for text in texts])
        return tokens

    def _unit(self, embeddings: torch.Tensor) -> np.ndarray:
        import torch

        # In float32 also where the model runs in half precision, so that the norm is 1 to float32 accuracy.
        unit: np.ndarray = torch.nn.functional.normalize(embeddings.float(), dim=-1).cpu().numpy()
        return unit


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


def _open_clip_names(settings: ClipConfig) -> tuple[str, str | None]:
    """The (model_name, pretrained) that open_clip takes."""
    import open_clip

    folder = model_folder(settings.model, "clip")
    if folder is not None:
        return f"local-dir:{folder}", None
    if settings.model.startswith("hf-hub:"):
        return settings.model, None
    if settings.pretrained is None:
        raise ModelError(no_weights(settings.model))
    path = Path(settings.pretrained).expanduser()
    if settings.pretrained.startswith((".", "/", "~")) and not path.is_file():
        raise ModelError(f"clip: no weights file '{settings.pretrained}'")
    name = settings.model.replace("/", "-")
    if path.is_file():
        return name, str(path)
    if not open_clip.get_pretrained_cfg(name, settings.pretrained):
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ModelError(
            f"clip: '{settings.pretrained}' is neither a weights file nor a tag of '{settings.model}' (tags: {known})"
        )
    return name, settings.pretrained


def _open_clip_config(settings: ClipConfig) -> dict[str, Any]:
    """The model's `open_clip_config.json`, or for a built-in name the same shape, without importing open_clip."""
    with explained("clip", settings.model):
        folder = model_folder(settings.model, "clip")
        if folder is not None:
            path = folder / "open_clip_config.json"
            if not path.is_file():
                raise ModelError(f"clip: '{settings.model}' is no open_clip model: no open_clip_config.json")
            return _read_config(path, settings.model)
        if settings.model.startswith("hf-hub:"):
            import huggingface_hub

            repository = settings.model.removeprefix("hf-hub:")
            return _read_config(
                Path(huggingface_hub.hf_hub_download(repository, "open_clip_config.json")), settings.model
            )
        spec = importlib.util.find_spec("open_clip")
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin).parent / "model_configs" / f"{settings.model.replace('/', '-')}.json"
        if not path.is_file():
            raise ModelError(
                f"clip: '{settings.model}' is neither a folder nor a name of open_clip (open_clip.list_models())"
            )
        return {"model_cfg": json.loads(path.read_text(encoding="utf-8"))}


def _read_config(path: Path, model: str) -> dict[str, Any]:
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict) or "model_cfg" not in config:
        raise ModelError(f"clip: open_clip_config.json of '{model}' has no model_cfg")
    return dict(config)


def _preprocess_config(settings: ClipConfig) -> dict[str, Any]:
    """What `create_model` would set as `visual.preprocess_cfg`, without creating the model."""
    import open_clip
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    config = _open_clip_config(settings)
    merged = merge_preprocess_dict(PreprocessCfg(), config.get("preprocess_cfg", {}))
    name, pretrained = _open_clip_names(settings)
    if pretrained is not None:
        merged = merge_preprocess_dict(merged, open_clip.get_pretrained_cfg(name, pretrained))
    merged["size"] = config["model_cfg"]["vision_cfg"].get("image_size", 224)
    return dict(merged)
