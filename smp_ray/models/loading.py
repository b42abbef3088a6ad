"""What all models share when they load: where a model is, on which device, and one-line errors.

Nothing here imports torch before it is needed, so that the driver can ask for a model's identity cheaply.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smp_ray.errors import ModelError

if TYPE_CHECKING:
    import torch

_EMBEDDED = Path(__file__).resolve().parent.parent / "demo" / "models"
#: Packages that a model may need beyond the project's own, by the name they are imported or mentioned under.
_EXTRAS = {
    "gguf": "gguf",
    "sentencepiece": "sentencepiece",
    "tiktoken": "tiktoken",
    "google.protobuf": "protobuf",
    "protobuf": "protobuf",
    "accelerate": "accelerate",
    "bitsandbytes": "bitsandbytes",
    "einops": "einops",
    "mamba_ssm": "mamba-ssm",
}


def resolve_device(name: str | None = None) -> torch.device:
    """Device of this process: `name`, or the first visible CUDA device, or the CPU. Ask it where the model runs.

    Raises:
        ModelError: if `name` is no device of this machine.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"device '{name}': {_one_line(error)}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device '{name}': this machine has no CUDA device; use 'cpu'")
    return device


def resolve_dtype(dtype: str, device: torch.device, *, gpu_dtype: str = "float32") -> torch.dtype:
    """The torch dtype of a model's weights; `auto` is float32 on a CPU and `gpu_dtype` on a GPU."""
    import torch

    if dtype == "auto":
        dtype = "float32" if device.type == "cpu" else gpu_dtype
    resolved = getattr(torch, dtype)
    assert isinstance(resolved, torch.dtype)
    return resolved


def set_threads(threads: int | None) -> None:
    """Let torch compute with `threads` CPU threads in this process; None leaves it as it is."""
    if threads is not None:
        import torch

        torch.set_num_threads(max(1, threads))


def model_folder(model: str, embedded: str) -> Path | None:
    """The local folder that `model` names, or None where it is a name on a hub.

    'embedded' is the small model that comes with the project, in its folder `embedded`. A text is a folder if the
    path exists or if it looks like a path (starts with `.`, `/` or `~`).

    Raises:
        ModelError: if it looks like a path and is no folder.
    """
    if model == "embedded":
        folder = _EMBEDDED / embedded
        if not folder.is_dir():
            raise ModelError(f"the embedded model is not installed ({folder}); reinstall smp-ray")
        return folder
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"model '{model}' is a file; name the folder that holds the model")
    if model.startswith((".", "/", "~")):
        raise ModelError(f"no model folder '{model}'")
    return None


def load_whole(auto_class: Any, source: str, model: str, **options: Any) -> Any:
    """`auto_class.from_pretrained(source, **options)`, refusing weights that do not fill the model.

    transformers would fill missing weights with random numbers and only warn.

    Raises:
        ModelError: if a parameter of the model is not among the weights, or has another shape.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # a bar for every actor of a cluster is noise
    loaded, report = auto_class.from_pretrained(source, trust_remote_code=False, output_loading_info=True, **options)
    parameters = {name for name, _ in loaded.named_parameters()}
    absent = sorted(set(report["missing_keys"]) & parameters)
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
        raise ModelError(f"model '{model}': {_cause(error, model)}") from error


def _cause(error: Exception, model: str) -> str:
    text = _one_line(error)
    missing = _missing_package(error, text)
    if missing:
        return f"it needs the package '{missing}': pip install {missing}"
    if _unreachable(error, text):
        how = "HF_HUB_OFFLINE is set" if _offline() else "the hub cannot be reached"
        return f"no such folder, and {how} with no copy in the cache; name a folder or download it first"
    if "is not a local folder and is not a valid model identifier" in text or "RepositoryNotFound" in text:
        return "no such folder and no such model on the hub"
    if "trust_remote_code" in text or "custom code" in text:
        return "it runs code of its own (trust_remote_code), which stays off here; choose another model"
    if "Unrecognized configuration class" in text or "Unrecognized model" in text:
        return f"wrong architecture for this use: {text[:240]}"
    if "weights_only" in text.lower() or "WeightsUnpickler" in text:
        return "its weights file holds more than tensors and is not loaded for safety; convert it to safetensors"
    if isinstance(error, FileNotFoundError):
        return f"a file is missing: {text[:240]}"
    return f"cannot be loaded ({type(error).__name__}): {text[:240]}"


def _missing_package(error: Exception, text: str) -> str | None:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _EXTRAS.get(error.name, error.name.split(".")[0])
    if isinstance(error, ImportError) or "pip install" in text:
        named = re.search(r"pip install (?:-U )?['\"`]?([A-Za-z0-9_.-]+)", text)
        for word, package in _EXTRAS.items():
            if word in text.lower():
                return package
        return named.group(1).rstrip(".") if named else None
    if isinstance(error, ValueError) and "sentencepiece or tiktoken" in text:
        return "sentencepiece"
    return None


def _unreachable(error: Exception, text: str) -> bool:
    names = {type(cause).__name__ for cause in _chain(error)}
    if names & {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectTimeout", "ConnectionError"}:
        return True
    if _offline() and "If you were trying to load it from 'https://huggingface.co" in text:
        return True
    return "couldn't connect to" in text or "offline mode" in text.lower() or "Failed to download weights" in text


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
