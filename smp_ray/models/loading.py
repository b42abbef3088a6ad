"""What all models share when they load: where a model is, device and dtype, and one-line errors.

Nothing here imports torch before it is needed, so that the driver can ask for a model's identity cheaply.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smp_ray.errors import ModelError, one_line
from smp_ray.models.hub import hub_folder
from smp_ray.models.mirror import copied
from smp_ray.models.settings import ModelSettings

if TYPE_CHECKING:
    import torch

_EMBEDDED = Path(__file__).resolve().parent.parent / "demo" / "models"
#: What libraries say (class names of an error and of its causes, then its text), and what it means for the user.
_MEANINGS = {
    r"OfflineModeIsEnabled|LocalEntryNotFound|IncompleteSnapshot|Connect(ion)?(Error|Timeout)|couldn't connect to"
    r"|If you were trying to load it from|is not a valid model identifier|(Repository|Revision)NotFound": (
        "no such folder or hub model, a file of it is missing, or the cache has no copy while the hub is out of reach "
        "or HF_HUB_OFFLINE is set"
    ),
    r"trust_remote_code|custom code": (
        "it runs code of its own (trust_remote_code), which stays off here; choose another model"
    ),
    r"(?i)weights_only|WeightsUnpickler": (
        "its weights file holds more than tensors and is not loaded for safety; convert it to safetensors"
    ),
}


def prepare(dtype: str, device: str | None, threads: int | None) -> tuple[torch.device, torch.dtype]:
    """Where and in which type a model of this process computes.

    `dtype` 'auto' is float32 (what suits a model on a GPU, its family says); `device` None takes CUDA where there is
    one; `threads` are those of torch in this process, and None leaves them.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(max(1, threads))
    # Else a convolution in float32 on a GPU would have ten bits of its numbers' 23, unlike on a CPU.
    torch.backends.cudnn.allow_tf32 = False
    resolved = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    assert isinstance(resolved, torch.dtype)
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")), resolved


def model_folder(model: str, embedded: str, only: str | None = None) -> Path | None:
    """The local folder that `model` names, or None where it is a name on a hub.

    'embedded' is the small model that comes with the project, in its folder `embedded`. An address (`s3://…`) is copied
    to this node; `only` as in `copied`. A text is a folder if the path exists or if it looks like a path (starts with
    `.`, `/` or `~`); a `ModelError` says that it is none.
    """
    if "://" in model:
        return copied(model, only)
    if is_hub_name(model):
        return None
    path = _EMBEDDED / embedded if model == "embedded" else Path(model).expanduser()
    if not path.is_dir():
        raise ModelError(f"'{path}' is no model folder")
    return path


def is_hub_name(model: str) -> bool:
    """Whether `model` is neither 'embedded' nor an address nor a path, whether or not there is anything."""
    looks = model == "embedded" or "://" in model or model.startswith((".", "/", "~"))
    return not looks and not Path(model).exists()


def pretrained(settings: ModelSettings, embedded: str, weights: bool = True) -> dict[str, Any]:
    """What every `from_pretrained` of transformers is given: a folder on this node, so that it asks no hub.

    `weights` says whether they are needed; where they are not, those of a hub model are not fetched.
    """
    gguf_file = getattr(settings, "gguf_file", None)
    with explained(settings.model):
        folder = model_folder(settings.model, embedded, gguf_file) or hub_folder(
            settings.model, settings.revision, partial(_weights, gguf_file) if weights else None
        )
    return {"pretrained_model_name_or_path": str(folder), "trust_remote_code": False}


def _weights(gguf_file: str | None, names: Sequence[str], folder: Path) -> Collection[str]:
    """The files that transformers would load of those that a repository has: safetensors first, whole or in shards."""
    if gguf_file is not None:
        return [gguf_file]
    for whole in ("model.safetensors", "pytorch_model.bin"):
        if whole in names:
            return [whole]
        if (index := f"{whole}.index.json") in names:
            return set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
    return []  # loading says what is missing


def load_whole(auto_class: Any, model: str, **options: Any) -> Any:
    """`auto_class.from_pretrained(**options)`, refusing weights that do not fill the model.

    transformers would fill missing weights with random numbers and only warn.

    Raises:
        ModelError: if a parameter of the model is not among the weights, or has another shape.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for every actor of a cluster is noise
    loaded, report = auto_class.from_pretrained(output_loading_info=True, **options)
    absent = sorted(set(report["missing_keys"]) & {name for name, _ in loaded.named_parameters()})
    if absent:
        raise ModelError(
            f"the weights of '{model}' lack {len(absent)} parameters of {type(loaded).__name__} "
            f"({absent[0]}, ...): they belong to another architecture"
        )
    return loaded


@contextlib.contextmanager
def explained(model: str) -> Iterator[None]:
    """Turn whatever a library raises while it loads `model` into a `ModelError` of one clear line."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # libraries raise OSError, ValueError, KeyError, ... for the same causes
        said = " ".join(str(error).split())
        cause: BaseException | None = error
        while cause is not None:
            said = f"{type(cause).__name__} {said}"
            cause = cause.__cause__ or cause.__context__
        meant = (meaning for pattern, meaning in _MEANINGS.items() if re.search(pattern, said))
        unknown = f"cannot be loaded ({type(error).__name__}): {one_line(error, 240)}"
        raise ModelError(f"model '{model}': {next(meant, unknown)}") from error
