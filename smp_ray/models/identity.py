"""What identifies a model: the content of its files, or a name and a commit. Loads neither torch nor a model.

The identity goes into the fingerprint of a feature family: two runs with the same identity compute the same features.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from smp_ray.config import CaptionerConfig, ClipConfig, PerplexityConfig
from smp_ray.errors import ModelError
from smp_ray.models.loading import ModelFamily, model_folder

#: Files up to this size are hashed whole.
WHOLE_BYTES = 64 * 2**20
#: Of larger ones: this many evenly spaced samples of this size, the first and the last bytes among them.
SAMPLES, SAMPLE_BYTES = 16, 2**20

_IGNORED_NAMES = re.compile(r"(readme|license|licence|notice|changelog|use_policy)(\.|$)", re.IGNORECASE)
_IGNORED_SUFFIXES = {".md", ".py", ".pyc", ".h5", ".msgpack", ".onnx", ".ot", ".png", ".jpg", ".jpeg", ".gif", ".pdf"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_PREFIX = "hf-hub:"


def model_identity(family: ModelFamily, settings: CaptionerConfig | ClipConfig | PerplexityConfig) -> dict[str, Any]:
    """What `settings` names, as JSON.

    Returns:
        For a folder or 'embedded' `{"name", "files": {relative name: digest}}`: the contents, not the place, so a
        moved folder keeps its identity. For a hub id `{"name", "revision"}` with the commit that would be loaded.
        For an open_clip name `{"name", "pretrained"}` with the tag, or with the weights file's digest.

    Raises:
        ModelError: for a missing folder or file, or a hub id whose commit cannot be found out.
    """
    folder = model_folder(settings.model, family)
    if isinstance(settings, ClipConfig):
        return _clip_identity(settings, folder)
    if folder is None:
        return {"name": settings.model, "revision": hub_commit(family, settings.model, settings.revision)}
    name = "embedded" if settings.model == "embedded" else "folder"
    gguf_file = getattr(settings, "gguf_file", None)
    if gguf_file is None:
        if not (folder / "config.json").is_file():
            raise ModelError(f"{family}: no config.json in '{folder}', so it is no model folder of transformers")
        return {"name": name, "files": _folder_digests(family, folder)}
    # transformers takes the weights, the configuration and the tokenizer all from that one file.
    weights = folder / gguf_file
    if not weights.is_file():
        raise ModelError(f"{family}: no GGUF file '{gguf_file}' in '{settings.model}'")
    return {"name": name, "files": {gguf_file: file_digest(weights)}}


def file_digest(path: Path) -> str:
    """BLAKE2b of a file's size and content: the whole up to `WHOLE_BYTES`, else evenly spaced samples."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            while block := file.read(SAMPLE_BYTES):
                digest.update(block)
        else:
            for sample in range(SAMPLES):
                file.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def hub_commit(family: ModelFamily, repository: str, revision: str | None) -> str:
    """The commit of a hub repository that `revision` (default: main) stands for now.

    Asks the hub, which is also what loading does; where the hub is offline or out of reach, the local cache.

    Raises:
        ModelError: if neither knows it.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    import huggingface_hub
    from huggingface_hub import constants

    wanted = revision or "main"
    problem = "offline"
    if not constants.HF_HUB_OFFLINE:
        try:
            commit = huggingface_hub.HfApi().model_info(repository, revision=wanted, timeout=10).sha
            if commit:
                return str(commit)
        except Exception as error:  # httpx, hub and validation errors share no base class
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    cached = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "refs" / wanted
    if cached.is_file():
        return cached.read_text(encoding="utf-8").strip()
    raise ModelError(
        f"{family}: no folder '{repository}', and the commit of hub model '{repository}' at '{wanted}' is neither "
        f"cached nor known from the hub ({problem}); pin the revision to a commit, or name a folder"
    )


def _clip_identity(settings: ClipConfig, folder: Path | None) -> dict[str, Any]:
    if folder is not None:
        name = "embedded" if settings.model == "embedded" else "folder"
        return {"name": name, "files": _folder_digests("clip", folder)}
    if settings.model.startswith(_HUB_PREFIX):
        return {"name": settings.model, "revision": hub_commit("clip", settings.model[len(_HUB_PREFIX) :], None)}
    if settings.pretrained is None:
        raise ModelError(no_weights(settings.model))
    weights = Path(settings.pretrained).expanduser()
    if weights.is_file():
        return {"name": settings.model, "pretrained": file_digest(weights)}
    if settings.pretrained.startswith((".", "/", "~")):
        raise ModelError(f"clip: no weights file '{settings.pretrained}'")
    return {"name": settings.model, "pretrained": settings.pretrained}


def no_weights(model: str) -> str:
    """The message for an open_clip name that comes without weights."""
    return (
        f"clip: model '{model}' has no weights: set clip.pretrained to one of open_clip's tags "
        "(for example laion2b_s34b_b79k for ViT-B-32) or to a weights file, or name a folder"
    )


def _folder_digests(family: ModelFamily, folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
        if hidden or not path.is_file() or path.suffix.lower() in _IGNORED_SUFFIXES or _IGNORED_NAMES.match(path.name):
            continue
        digests[name.as_posix()] = file_digest(path)
    if not digests:
        raise ModelError(f"{family}: model folder '{folder}' is empty")
    return digests
