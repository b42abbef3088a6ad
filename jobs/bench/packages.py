"""Packages that bring something by an entry point, as an installer leaves them in a folder of the path."""

from __future__ import annotations

import os
from pathlib import Path

#: Group of the entry points of families.
FAMILIES = "smp_ray.families"


def install(folder: Path, code: str, group: str, name: str, value: str, version: str = "1.0") -> Path:
    """A module of this code, and the record of its entry point `name = value` in a group; returns the folder."""
    module = value.partition(":")[0]
    record = folder / f"{module}-{version}.dist-info"
    record.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n")
    (record / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    return folder


def finding(folder: Path) -> dict[str, str]:
    """The environment of a process that finds the packages of a folder, and this project."""
    path = [str(folder), str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
