"""Few posts in one process: the families of a configuration, whatever it leaves out, a few posts at a time."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from smp_ray.config import build_config
from smp_ray.errors import ModelError
from smp_ray.families.clip import ClipSettings
from smp_ray.families.keys import family_keys
from smp_ray.features.steps import Here, family_step, loading
from smp_ray.models.clip_embedder import ClipEmbedder
from smp_ray.schema import POSTS
from tests.models.tiny import write_clip_folder


def test_clip_without_captions_a_few_posts_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        Image.new("RGB", (40, 30 + number), (50 * number, 0, 0)).save(tmp_path / f"{number}.png")
    posts = pa.Table.from_pylist(
        [
            {"row_id": n, "post_id": str(n), "title": f"a boat {n}", "image_uri": str(tmp_path / f"{n}.png")}
            for n in range(6)
        ],
        POSTS,
    )
    config = build_config({"workspace": "w", "source": {"kind": "demo"}, "features": {"families": ["clip"]}})
    features = config.features
    keys = family_keys(features.sections, features.images.limits, lambda _: False, config.models)
    here = Here(config.images, list(keys.values()), lambda _: None)
    whole = here(posts)
    monkeypatch.setattr("smp_ray.features.steps.FEW", 2)
    parts = here(posts)
    for found in (whole, parts):
        assert found["post_id"].to_pylist() == list("012345")
        assert found["clip_status"].to_pylist() == ["ok"] * 5 + ["no_image"]
        assert found["similarity_title_caption"].null_count == 6
    for name in ("similarity_image_title", "clip_title"):
        values = [np.array(found[name].to_pylist()[:5], dtype=float) for found in (whole, parts)]
        np.testing.assert_allclose(*values, atol=1e-3)


def test_half_precision_of_a_gpu_is_whole_on_a_cpu(tmp_path: Path) -> None:
    """It is much faster there, and nearer to the truth; what is stored keeps its name."""
    section = ClipSettings(model=str(write_clip_folder(tmp_path)), dtype="float16")
    key = family_keys({"clip": section}, {}, lambda _: False)["clip"]
    step = family_step(key, "cpu", 1, print)
    texts = ["a red kite", "a blue boat"]
    whole = ClipEmbedder(section.model_copy(update={"dtype": "float32"}), device="cpu").embed_texts(texts)
    found = step.model.compute([None, None], texts, [None, None])
    np.testing.assert_array_equal(np.stack(found["clip_title"]), whole)


def test_garbage_is_looked_for_again_when_models_are_loaded() -> None:
    assert gc.isenabled()
    with loading(), loading():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ModelError), loading():
        raise ModelError("no such model")
    assert gc.isenabled()
