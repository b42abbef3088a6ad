"""Model folders that lie in an object store: copied once a node, then loaded from there as any folder.

The copy is whole, weights included, also where only a configuration is read: on the driver and on nodes that decode.
"""

import hashlib
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from smp_ray.errors import ModelError, one_line
from smp_ray.models.hub import alone

FILES_AT_ONCE = 4
#: Files of a model folder that are no part of the model: hidden ones, papers, code, other frameworks' weights.
NO_PART = re.compile(
    r"(^|/)(\.|__pycache__/|(readme|license|licence|notice|changelog|use_policy)(\.|$))"
    r"|\.(md|py|pyc|h5|msgpack|onnx|ot|png|jpe?g|gif|pdf)$",
    re.IGNORECASE,
)


def below(mirror: str, name: str) -> str:
    """Address of the model `name` in a mirror, a folder or an address with or without options after `?`."""
    if "://" not in mirror:  # never to be taken for a name on the hub
        return str(Path(mirror if mirror.startswith("~") else Path(mirror).absolute()) / name)
    place, mark, options = mirror.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{options}"


def copied(address: str, only: str | None = None) -> Path:
    """The local copy of the model folder at an address of pyarrow (`s3://bucket/prefix/name?endpoint_override=…`).

    A folder that has changed at its address is copied anew; the old copy stays in the cache
    (`$XDG_CACHE_HOME/smp_ray/models`, `~/.cache` by default), which may be deleted whenever nothing runs.
    `only` names the one file that counts.

    Raises:
        ModelError: there is no such folder, or it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.fs as pafs

    parts = urlsplit(address)
    shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
    try:
        filesystem, root = pafs.FileSystem.from_uri(address)
        found = filesystem.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True))
        files = {info.path.removeprefix(root).lstrip("/"): info for info in found if info.is_file}
        files = {name: info for name, info in files.items() if (name == only if only else not NO_PART.search(name))}
        if not files:
            raise ModelError(f"no model at '{shown}': no files{f' called {only!r}' if only else ''} below this address")
        state = sorted((name, info.size, info.mtime_ns) for name, info in files.items())
        version = hashlib.blake2b(repr((shown, state)).encode(), digest_size=8).hexdigest()
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "smp_ray" / "models"
        folder = cache / f"{Path(root).name}-{version}"
        with alone(cache / f"{folder.name}.lock") as held:
            if not folder.is_dir():
                if not held:
                    raise ModelError(f"'{cache}' is read only or has no locks: set XDG_CACHE_HOME to another folder")
                partial = cache / f".partial-{folder.name}"
                shutil.rmtree(partial, ignore_errors=True)  # what a killed copy left
                for name in files:
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)

                def copy(name: str) -> None:
                    pafs.copy_files(files[name].path, str(partial / name), filesystem, pafs.LocalFileSystem())

                with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
                    list(pool.map(copy, files))
                partial.rename(folder)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ModelError(f"model '{shown}' cannot be copied: {one_line(error, 240)}") from error
    return folder
