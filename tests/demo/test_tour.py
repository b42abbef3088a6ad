"""What `smp-ray demo` shows at its end."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from smp_ray.demo.tour import show_examples

ROW = {"title": "a boat", "caption": "a red boat", "similarity_title_caption": 0.5, "title_perplexity": 9.0}


def test_examples_are_shown_of_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "features.parquet")
    for frame, said in (
        (pd.DataFrame([ROW]), "a red boat"),
        (pd.DataFrame([{**ROW, "caption": None}]), "caption of the picture"),
        (pd.DataFrame([{"title": "a boat"}]), "nobody computed caption, similarity_title_caption, title_perplexity"),
    ):
        frame.to_parquet(path)
        show_examples(path)
        assert said in capsys.readouterr().err
