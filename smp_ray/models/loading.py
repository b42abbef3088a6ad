"""What all models share when they load: where a model is, device and dtype, and one-line errors.

Nothing here imports torch before it is needed, so that the driver can ask for a model's identity cheaply.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smp_ray.errors import ModelError, one_line
from smp_ray.models.settings import ModelSettings

if TYPE_CHECKING:
    import torch

_EMBEDDED = Path(__file__).resolve().parent.parent / "demo" / "models"
#: What libraries say (class names of an error and of its causes, then its text), and what it means for the user.
_MEANINGS = {
    r"OfflineModeIsEnabled|LocalEntryNotFound|IncompleteSnapshot|Connect(ion)?(Error|Timeout)|couldn't connect to"
    r"|If you were trying to load it from|is not a valid model identifier|RepositoryNotFound": (
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
    resolved = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    assert isinstance(resolved, torch.dtype)
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")), resolved


def model_folder(model: str, embedded: str) -> Path | None:
    """The local folder that `model` names, or None where it is a name on a hub.

    'embedded' is the small model that comes with the project, in its folder `embedded`. A text is a folder if the
    path exists or if it looks like a path (starts with `.`, `/` or `~`); a `ModelError` says that it is none.
    """
    path = _EMBEDDED / embedded if model == "embedded" else Path(model).expanduser()
    if path.is_dir():
        return path
    if model == "embedded" or path.exists() or model.startswith((".", "/", "~")):
        raise ModelError(f"'{path}' is no model folder")
    return None


def pretrained(settings: ModelSettings, embedded: str) -> dict[str, Any]:
    """What every `from_pretrained` of transformers is given: the folder or the hub's name, and the revision."""
    source = str(model_folder(settings.model, embedded) or settings.model)
    return {"pretrained_model_name_or_path": source, "revision": settings.revision, "trust_remote_code": False}


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
