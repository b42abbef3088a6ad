"""Packages that bring something by an entry point, as an installer leaves them in a folder of the path."""

from __future__ import annotations

from pathlib import Path


def install(folder: Path, code: str, group: str, name: str, value: str, version: str = "1.0") -> Path:
    """A module of this code, and the record of its entry point `name = value` in a group; returns the folder."""
    module = value.partition(":")[0]
    record = folder / f"{module}-{version}.dist-info"
    record.mkdir(parents=True)
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n")
    (record / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    return folder
