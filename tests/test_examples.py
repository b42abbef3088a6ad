"""The example needs the exported file and no smp_ray."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import lightgbm

EXAMPLE = Path(__file__).parents[1] / "examples" / "from_the_export.py"


def test_from_the_export_to_a_plot_and_a_model(sample: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", str(EXAMPLE), str(sample / "features.parquet"), str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "MAE" in done.stdout
    assert "plotly" in (tmp_path / "inconsistency.html").read_text(encoding="utf-8")
    model = lightgbm.Booster(model_file=tmp_path / "model.txt")
    assert {"similarity_title_caption", "clip_image_0", "hour"} <= set(model.feature_name())


def test_it_imports_no_smp_ray() -> None:
    tree = ast.parse(EXAMPLE.read_text(encoding="utf-8"))
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in named} == {"lightgbm", "pandas", "pathlib", "plotly", "sys"}
