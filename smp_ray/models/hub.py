"""Models of the Hugging Face hub: a commit of one, brought into this node's cache once, whoever asks for it.

Of all processes of a node one fetches and the others wait; then all load from the folder, and nobody asks the hub. That
holds for a node that joins late as well, and for one whose cache was filled beforehand.
"""

import fcntl
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from smp_ray.errors import ModelError, one_line

#: Times that a busy hub is asked, each of which huggingface_hub repeats up to five times for listings and small files.
TRIES = 7
#: Seconds between two of them at most, unless the hub names another time.
LONGEST_WAIT = 60.0
#: Files that are no configuration and no tokenizer: weights of any framework, papers, pictures, code.
_LEFT_OUT = [
    "*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt*", "*.pkl", "*.npz", "*.h5", "*.msgpack", "*.ot", "*.gguf",
    "*.pb", "*.onnx*", "*.tflite", "*.mlmodel", "*.mlpackage/*", "onnx/*", "openvino/*", "*.zip", "*.tar*",
    "*.py", "*.md", "*.pdf", "*.png", "*.jp*g", "*.gif",
]  # fmt: skip

#: Which weights files of those that a repository has are loaded, given its folder with all that is no weights file.
Weights = Callable[[Sequence[str], Path], Collection[str]]
T = TypeVar("T")


def hub_commit(repository: str, revision: str | None) -> str:
    """The commit that `revision` (default: main) stands for now: asks the hub, or offline the local cache."""
    import huggingface_hub

    try:
        return str(_patiently(lambda: huggingface_hub.resolve_revision(repository, revision=revision).resolved))
    except Exception as error:  # httpx, hub and validation errors share no base class
        raise ModelError(
            f"the commit of hub model '{repository}' at '{revision or 'main'}' cannot be found out "
            f"({one_line(error, 400)}); pin the revision to a commit, or name a folder that exists"
        ) from error


def hub_folder(repository: str, revision: str | None, weights: Weights | None = None) -> Path:
    """The folder in the cache with the files of a repository that loading needs; fetched if this node lacks them.

    Args:
        repository: `org/name`.
        revision: as in the settings; of a commit that is there, the hub is not asked.
        weights: None leaves weights out.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors
    from huggingface_hub.utils.tqdm import disable_progress_bars

    commit = hub_commit(repository, revision)

    def found(offline: bool) -> Path:
        take = partial(huggingface_hub.snapshot_download, repository, revision=commit, local_files_only=offline)
        folder = Path(take(ignore_patterns=_LEFT_OUT))
        try:
            listing = huggingface_hub.get_cached_repo_tree(repository, revision=commit)
        except errors.CachedRepoTreeNotFoundError:  # another tool filled the cache
            if offline:
                raise
            return folder  # and the hub is out of reach
        if weights is not None and (wanted := weights([file.path for file in listing], folder)):
            take(allow_patterns=sorted(wanted))
        return folder

    disable_progress_bars()  # one for every actor of a cluster is noise
    locks = Path(constants.HF_HUB_CACHE) / ".locks" / "smp_ray"
    with alone(locks / repository.replace("/", "--")):
        try:
            return found(offline=True)
        except (errors.LocalEntryNotFoundError, errors.CachedRepoTreeNotFoundError):
            return _patiently(lambda: found(offline=False))


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Hold the lock of this file, which other processes of the node wait for.

    Yields whether it is held: not in a cache that is read only, nor on a file system without locks, where
    huggingface_hub's own must do: it downloads no file twice, but every process asks.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(path.open("a")), fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True


def _patiently(ask: Callable[[], T]) -> T:
    """What `ask` returns; asked again where the hub is busy or out of order (429, 5xx), later and later.

    huggingface_hub itself asks again for listings and metadata, in lockstep on all nodes, of files only at 429, and
    never for a commit.
    """
    for number in range(TRIES):
        try:
            return ask()
        except Exception as error:  # the answer may be in a cause of one of several types
            response = _answer(error)
            if number + 1 == TRIES or response is None or not (response[0] == 429 or response[0] >= 500):
                raise
            time.sleep(response[1] + random.uniform(0.5, 1) * min(2.0**number, LONGEST_WAIT))
    raise AssertionError


def _answer(error: BaseException | None) -> tuple[int, float] | None:
    """Status of the hub's answer that led to an error, and the seconds to wait that it names; None without one."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            after = response.headers.get("Retry-After", "")
            return int(response.status_code), float(after) if after.isdigit() else 0.0
        error = error.__cause__
    return None
