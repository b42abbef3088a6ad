"""The features of three worlds are what they were when they were recorded, post by post.

Recorded with the first edition of the code (commit 0d0f435) and the versions of constraints.txt; texts and statuses
must be the same, numbers to 1e-4 (another processor rounds otherwise). Embeddings are on record by their cosines.

It also tests `store/export.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from smp_ray.config import build_config
from smp_ray.ray_session import RaySession
from tests.features.conftest import exported, run_features
from tests.features.golden_worlds import FAMILIES, photographs, sample, videos

RECORDED = Path(__file__).parent / "golden"


def assert_as_recorded(name: str, source: dict[str, Any], session: RaySession, folder: Path) -> None:
    config = build_config({"workspace": str(folder / "run"), "source": source, "features": {"families": FAMILIES}})
    found = exported(run_features(config, session), folder).set_index("row_id")
    expected = pd.read_parquet(RECORDED / f"{name}.parquet").set_index("row_id")
    assert found.index.tolist() == expected.index.tolist()
    for column in expected:
        if expected[column].dtype.kind == "f":
            np.testing.assert_allclose(found[column], expected[column], rtol=1e-4, atol=1e-4, err_msg=column)
        else:
            pd.testing.assert_series_equal(found[column], expected[column], check_dtype=False)


def test_sample_posts(session: RaySession, tmp_path: Path) -> None:
    assert_as_recorded("sample", sample(), session, tmp_path)


def test_photographs_of_odd_kinds(flickr_photos: Path, session: RaySession, tmp_path: Path) -> None:
    assert_as_recorded("photographs", photographs(flickr_photos, tmp_path / "posts"), session, tmp_path)


def test_video_posts(smp_video: Path, session: RaySession, tmp_path: Path) -> None:
    assert_as_recorded("videos", videos(smp_video, tmp_path / "posts"), session, tmp_path)
