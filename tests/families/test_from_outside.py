"""A family from an installed package: everywhere that a built-in one is, in the workers, too; clashes are one line.

It also tests `plugins.py`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import yaml

from jobs.bench.packages import install
from smp_ray.errors import FamilyError
from smp_ray.families import registry
from smp_ray.families.base import IMAGE, TITLE, Column, Family, FamilySettings
from tests.features.conftest import run_command

ROOT = Path(__file__).parents[2]
#: The example of the page on adding a family.
PACKAGE = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "add-a-family.md").read_text(encoding="utf-8"), re.DOTALL
)[0]


def install_shout(folder: Path, package: str, value: str) -> Path:
    return install(folder, package, registry.GROUP, "shout", value)


@pytest.mark.slow
def test_a_package_brings_a_family(tmp_path: Path) -> None:
    site = install_shout(tmp_path / "site", PACKAGE, "loud_words:Shout")
    config: dict[str, Any] = {
        "workspace": str(tmp_path / "run"),
        "source": {"kind": "demo", "posts": 150},
        "features": {"families": ["perplexity", "shout"], "shout": {"loudness": 2.0}},
        "training": {
            "split": {"folds": 3}, "baselines": ["mean"], "resamples": 100,
            "matrix": {"pca_dimensions": 4, "text_dimensions": 0},
            "tune": {"trials": 2, "max_rounds": 20, "models": 1, "asha": None}, "ablation": {"candidates": 1},
        },
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    env = {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    done = run_command("run", str(path), **env)
    assert done.returncode == 0, done.stderr
    exported = tmp_path / "out.parquet"
    assert run_command("export", str(path), "--out", str(exported), **env).returncode == 0

    frame = pd.read_parquet(exported)
    titled = frame[frame["shout_status"] == "ok"]
    assert len(titled) > 120
    assert (titled["shout_volume"] == [2.0 * sum(map(str.isupper, title)) for title in titled["title"]]).all()
    assert frame.loc[frame["shout_status"] == "no_text", "shout_volume"].isna().all()
    workers = set(titled["shout_process"].dropna())
    assert workers
    assert os.getpid() not in workers
    assert len(workers) <= 2

    (matrix,) = (tmp_path / "run" / "matrix").glob("*/manifest.json")
    columns = json.loads(matrix.read_text())["details"]["columns"]
    assert columns["shout_volume"] == "shout"
    assert "shout_process" not in columns  # it has no group
    assert {"metadata + shout", "all - shout"} <= set(pd.read_parquet(tmp_path / "run" / "ablation.parquet")["variant"])
    measures = pd.read_csv(tmp_path / "run" / "report" / "measures_by_interval.csv")
    assert "shout_volume" in set(measures["measure"])
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "Loudest titles" in page

    status = run_command("status", str(path), **env)
    assert status.returncode == 0, status.stderr
    assert any(line.split()[:2] == ["shout", "committed"] for line in status.stderr.splitlines())
    missing = run_command("status", str(path))
    assert missing.returncode == 2
    assert "features.families.1: found 'shout', allowed: " in missing.stderr


@pytest.mark.parametrize(
    ("package", "value", "message"),
    [
        ("raise ImportError('no loudspeaker')", "loud_words:Shout", "the family shout (loud_words:Shout) cannot be"),
        ("Shout = 3", "loud_words:Shout", "is no subclass of smp_ray.families.base.Family"),
        (PACKAGE, "loud_words:Whisper", "cannot be imported: module 'loud_words' has no attribute 'Whisper'"),
        (PACKAGE.replace('    name = "shout"\n', ""), "loud_words:Shout", "of loud_words:Shout: says no name"),
        (
            PACKAGE.replace('name = "shout"', 'name = "clip"'),
            "loud_words:Shout",
            "its name clip is that of the family clip already",
        ),
        (
            PACKAGE.replace('name = "shout"', 'name = "images"'),
            "loud_words:Shout",
            "features.images is a key of smp_ray",
        ),
    ],
)
def test_a_package_that_does_not_fit_is_one_line(tmp_path: Path, package: str, value: str, message: str) -> None:
    install_shout(tmp_path, package, value)
    done = run_command("validate", "configs/demo.yaml", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


class Toy(Family):
    """Does not fit until something is changed."""

    name = "toy"
    Settings = FamilySettings
    reads = (TITLE,)
    columns = (Column("toy_value", pa.float32()),)

    def __init__(self, settings: Any, device: str, threads: int | None) -> None:
        """Nothing to load."""

    def compute(self, *inputs: list[Any]) -> dict[str, Any]:
        """Never called here."""
        return {}


class Demanding(FamilySettings):
    """A section that cannot be left out."""

    key: int


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"section": "captioner"}, "its section captioner is that of the family caption already"),
        (
            {"columns": (Column("title_perplexity", pa.float32()),)},
            "its column title_perplexity is that of the family perplexity",
        ),
        ({"columns": (Column("popularity", pa.float32()),)}, "its column popularity is that of the posts table"),
        (
            {"columns": (Column("a", pa.int8()), Column("a", pa.int8()))},
            "its column a is that of the family toy already",
        ),
        ({"reads": ("smell",)}, "reads 'smell', neither image, title nor a column of a family before it"),
        ({"reads": ()}, "reads '', neither"),
        ({"name": "Big Toy"}, "its name must be lower-case letters"),
        ({"name": "adapted"}, "the name adapted is taken by smp_ray itself"),
        ({"columns": (Column("toy_value", pa.float32(), group="metadata"),)}, "the name metadata is taken"),
        ({"reads": (IMAGE,)}, "reads the image and has no transform"),
        ({"Settings": Demanding}, "its section needs a default for key"),
    ],
)
def test_a_family_that_clashes_is_named(changed: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clashing = type("Clashing", (Toy,), changed)
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, f"{__name__}:Clashing"))
    monkeypatch.setitem(globals(), "Clashing", clashing)
    with pytest.raises(FamilyError, match=message):
        registry.families.__wrapped__()
