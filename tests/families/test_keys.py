"""Fingerprints of families: they follow what computes a family, and the dtype and commit that really run."""

from __future__ import annotations

from typing import Any

import pytest

from smp_ray.config import build_config
from smp_ray.errors import ModelError
from smp_ray.families.keys import FamilyKey, covers, family_keys
from smp_ray.families.perplexity import Perplexity
from smp_ray.store.manifest import Manifest


def family_keys_of(gpu: bool = False, **features: Any) -> dict[str, FamilyKey]:
    config = build_config({"workspace": "w", "source": {"kind": "demo"}, "features": features})
    images = config.features.images.limits
    return family_keys(config.features.sections, images, lambda section: gpu and section.num_gpus != 0)


def keys(**features: Any) -> dict[str, str]:
    return {family: key.fingerprint for family, key in family_keys_of(**features).items()}


def test_errors_are_not_finished() -> None:
    manifest = Manifest("s", "x", {}, details={"covers": {"p": {"ok": 3}, "q": {"ok": 2, "error": 1}}})
    assert covers(manifest, "p")
    assert not covers(manifest, "q")
    assert not covers(manifest, "other")
    assert not covers(None, "p")


def test_the_dtype_that_really_runs_is_fingerprinted() -> None:
    cpu, gpu = keys(), keys(gpu=True)
    assert {family for family in cpu if cpu[family] != gpu[family]} == {
        "caption",
        "clip",
    }  # perplexity: float32 on both
    assert keys(gpu=True, captioner={"num_gpus": 0})["caption"] == cpu["caption"]
    assert keys(clip={"dtype": "float32"})["clip"] == cpu["clip"]
    assert keys(gpu=True, captioner={"dtype": "bfloat16"})["caption"] == gpu["caption"]
    pinned = family_keys_of(gpu=True)["clip"]
    assert pinned.settings["dtype"] == pinned.pinned.dtype == "float16"  # type: ignore[attr-defined]


def test_a_name_counts_where_a_model_has_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Perplexity, "identity", classmethod(lambda cls, section: {}))
    assert keys(perplexity={"model": "a"})["perplexity"] != keys(perplexity={"model": "b"})["perplexity"]


def test_a_model_that_is_not_there_names_its_family() -> None:
    with pytest.raises(ModelError, match=r"^clip: .*nowhere"):
        keys(clip={"model": "./nowhere"})


def test_fingerprints_follow_what_computes_a_family() -> None:
    base = keys()
    assert keys(captioner={"batch_size": 3, "num_cpus": 2}, placement="spread") == base
    changed = keys(captioner={"max_new_tokens": 7})
    assert {family for family in base if base[family] != changed[family]} == {"caption", "clip"}
    changed = keys(perplexity={"max_tokens": 7})
    assert {family for family in base if base[family] != changed[family]} == {"perplexity"}
    changed = keys(images={"jpeg_side": 448})
    assert {family for family in base if base[family] != changed[family]} == {"caption", "clip"}
    assert keys(families=["clip"])["clip"] != base["clip"]
    assert keys(families=["perplexity"])["perplexity"] == base["perplexity"]
