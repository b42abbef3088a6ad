"""What identifies a model: the content of its files, or a name and a commit. Loads neither torch nor a model.

The identity goes into the fingerprint of what a model computes: with the same identity, two runs compute the same.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from smp_ray.errors import ModelError
from smp_ray.models.loading import model_folder
from smp_ray.models.settings import ModelSettings

#: Files up to this size are hashed whole.
WHOLE_BYTES = 64 * 2**20
#: Of larger ones: this many evenly spaced samples of this size, the first and the last bytes among them.
SAMPLES, SAMPLE_BYTES = 16, 2**20

_IGNORED_NAMES = re.compile(r"(readme|license|licence|notice|changelog|use_policy)(\.|$)", re.IGNORECASE)
_IGNORED_SUFFIXES = {".md", ".py", ".pyc", ".h5", ".msgpack", ".onnx", ".ot", ".png", ".jpg", ".jpeg", ".gif", ".pdf"}
_COMMIT = re.compile(r"[0-9a-f]{40}")


def transformers_identity(settings: ModelSettings, embedded: str) -> dict[str, Any]:
    """What `settings` names, as JSON; open_clip's models have `ClipSource.identity`.

    Args:
        settings: of a model of transformers.
        embedded: the folder of the model that comes with the project.

    Returns:
        For a folder or 'embedded' `{"name", "files": {relative name: digest}}`: the contents, not the place, so a
        moved folder keeps its identity. For a hub id `{"name", "revision"}` with the commit that would be loaded.

    Raises:
        ModelError: for a missing folder or file, or a hub id whose commit cannot be found out.
    """
    folder = model_folder(settings.model, embedded)
    if folder is None:
        return {"name": settings.model, "revision": hub_commit(settings.model, settings.revision)}
    name, gguf_file = folder_name(settings.model), getattr(settings, "gguf_file", None)
    if gguf_file is None:
        if not (folder / "config.json").is_file():
            raise ModelError(f"no config.json in '{folder}', so it is no model folder of transformers")
        return {"name": name, "files": folder_digests(folder)}
    # transformers takes the weights, the configuration and the tokenizer all from that one file.
    weights = folder / gguf_file
    if not weights.is_file():
        raise ModelError(f"no GGUF file '{gguf_file}' in '{settings.model}'")
    return {"name": name, "files": {gguf_file: file_digest(weights)}}


def check_identity(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuse a model that is not the one that was fingerprinted; a worker asks before it loads.

    Args:
        found: identity of what would be loaded here.
        expected: identity that is part of the fingerprint.

    Raises:
        ModelError: naming the first file that is missing, new or different, or the revision.
    """
    ours, theirs = found.get("files", {}), expected.get("files", {})
    for file in sorted({*ours, *theirs}):
        if file not in ours:
            raise ModelError(f"file '{file}' that was fingerprinted is missing")
        if file not in theirs:
            raise ModelError(f"file '{file}' is new: it was not there to be fingerprinted")
        _check_same(f"file '{file}'", ours[file], theirs[file])
    if not theirs:  # the same files are the same model, whatever it is called
        for key in ("name", "pretrained", "revision"):
            _check_same(key, found.get(key), expected.get(key))


def _check_same(what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise ModelError(f"{what} is not the one that was fingerprinted (expected {expected}, found {found})")


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


def hub_commit(repository: str, revision: str | None) -> str:
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
        f"the commit of hub model '{repository}' at '{wanted}' is neither cached nor known from the hub ({problem}); "
        "pin the revision to a commit, or name a folder that exists"
    )


def folder_name(model: str) -> str:
    """How an identity calls a model in a folder: not by its place, since a moved folder stays the same model."""
    return "embedded" if model == "embedded" else "folder"


def folder_digests(folder: Path) -> dict[str, str]:
    """Digests of the files that make a model, by their names relative to `folder`; its papers and caches are left out.

    Raises:
        ModelError: if there are none.
    """
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
        if hidden or not path.is_file() or path.suffix.lower() in _IGNORED_SUFFIXES or _IGNORED_NAMES.match(path.name):
            continue
        digests[name.as_posix()] = file_digest(path)
    if not digests:
        raise ModelError(f"model folder '{folder}' is empty")
    return digests
