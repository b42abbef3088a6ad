"""What identifies a model: the content of its files, or a name and a commit. Loads neither torch nor a model.

The identity goes into the fingerprint of what a model computes: with the same identity, two runs compute the same.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from smp_ray.errors import ModelError
from smp_ray.models.hub import hub_commit
from smp_ray.models.loading import model_folder
from smp_ray.models.mirror import NO_PART
from smp_ray.models.settings import ModelSettings

#: Files up to this size are hashed whole.
WHOLE_BYTES = 64 * 2**20
#: Of larger ones: this many evenly spaced samples of this size, the first and the last bytes among them.
SAMPLES, SAMPLE_BYTES = 16, 2**20


def transformers_identity(settings: ModelSettings, embedded: str) -> dict[str, Any]:
    """What settings of a model of transformers name, as JSON; `embedded` as in `model_folder`.

    As `folder_identity` for a folder or 'embedded'; for a hub id `{"name", "revision"}` with the commit that would be
    loaded. A `ModelError` says what is missing.
    """
    gguf_file = getattr(settings, "gguf_file", None)
    folder = model_folder(settings.model, embedded, gguf_file)
    if folder is None:
        return {"name": settings.model, "revision": hub_commit(settings.model, settings.revision)}
    if gguf_file is None and not (folder / "config.json").is_file():
        raise ModelError(f"no config.json in '{folder}', so it is no model folder of transformers")
    return folder_identity(settings.model, folder, gguf_file)


def folder_identity(model: str, folder: Path, only: str | None = None) -> dict[str, Any]:
    """`{"name", "files": {relative name: digest}}`: the contents, not the place, so a moved folder stays the same.

    `model` is as in the settings; `only` is the one file that counts (of a GGUF file, transformers takes all).
    """
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    kept = [name for name in names if (name == only if only else not NO_PART.search(name))]
    if not kept:
        raise ModelError(f"no GGUF file '{only}' in '{model}'" if only else f"model folder '{folder}' is empty")
    files = {name: file_digest(folder / name) for name in kept}
    return {"name": "embedded" if model == "embedded" else "folder", "files": files}


def check_identity(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuse a model that is not the one that was fingerprinted; a worker asks before it loads.

    Raises:
        ModelError: naming the first file that is missing, new or different, or the revision.
    """
    # The same files are the same model, whatever it is called.
    ours, theirs = found.get("files", found), expected.get("files", expected)
    kind = "file " if "files" in expected else ""
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            raise ModelError(
                f"{kind}'{name}' is not the one that was fingerprinted "
                f"(expected {theirs.get(name, 'none')}, found {ours.get(name, 'none')})"
            )


def file_digest(path: Path) -> str:
    """BLAKE2b of a file's size and content: the whole up to `WHOLE_BYTES`, else evenly spaced samples."""
    size = path.stat().st_size
    starts: Iterable[int] = range(0, size, SAMPLE_BYTES)
    if size > WHOLE_BYTES:
        starts = ((size - SAMPLE_BYTES) * sample // (SAMPLES - 1) for sample in range(SAMPLES))
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
