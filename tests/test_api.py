"""What `import smp_ray` offers, as the README shows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import smp_ray


def test_from_a_config_to_an_export(tmp_path: Path) -> None:
    (tmp_path / "posts.csv").write_text("id,title\n1,a boat\n2,\n", encoding="utf-8")
    source = {"kind": "table", "path": str(tmp_path / "posts.csv"), "columns": {"post_id": "id", "title": "title"}}
    run = smp_ray.open_run(smp_ray.build_config({"workspace": str(tmp_path / "run"), "source": source}))
    smp_ray.run_stages(run, ["ingest"])
    assert next(line for line in smp_ray.status(run) if line.name == "ingest").rows == 2
    assert not run.session.started
    with pytest.raises(Exception, match="caption: never computed"):
        smp_ray.export(run, str(tmp_path / "out.parquet"))


def test_the_names_are_there_and_no_others() -> None:
    assert all(callable(getattr(smp_ray, name)) for name in smp_ray.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        smp_ray.nonsense  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, smp_ray; print(sorted({'ray', 'torch', 'pydantic', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
