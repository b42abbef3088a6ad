"""The 300 real photographs through Ray: the same numbers as the libraries called directly, one post at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from smp_ray.demo import MODELS
from smp_ray.ray_session import RaySession
from tests.features.conftest import exported, run_features, table_config


@pytest.fixture(scope="module")
def photographs(flickr_photos: Path, session: RaySession, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("photographs")
    config = table_config(folder / "run", flickr_photos / "posts.csv", post_id="photo_id")
    return exported(run_features(config, session), folder)


def vectors(frame: pd.DataFrame, name: str) -> np.ndarray:
    return np.stack(frame[name].to_list()).astype(np.float64)


def test_every_photograph_has_one_row_and_every_status_is_ok(photographs: pd.DataFrame) -> None:
    assert len(photographs) == 300
    assert photographs["post_id"].is_unique
    for family in ("caption", "clip", "perplexity"):
        assert (photographs[f"{family}_status"] == "ok").all()
        assert photographs[f"{family}_error"].isna().all()


def test_embeddings_have_unit_norm_and_similarities_follow(photographs: pd.DataFrame) -> None:
    image, title, caption = (vectors(photographs, f"clip_{name}") for name in ("image", "title", "caption"))
    for matrix in (image, title, caption):
        np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-3)
    for name, left, right in (
        ("title_caption", title, caption),
        ("image_title", image, title),
        ("image_caption", image, caption),
    ):
        np.testing.assert_allclose(photographs[f"similarity_{name}"], (left * right).sum(1), atol=2e-3)


@pytest.mark.slow
@torch.inference_mode()
def test_captions_equal_generate_one_at_a_time(photographs: pd.DataFrame) -> None:
    model = AutoModelForImageTextToText.from_pretrained(MODELS / "captioner", dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(MODELS / "captioner")
    for row in photographs.itertuples():
        inputs = processor(images=Image.open(row.image_uri).convert("RGB"), return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=20, num_beams=1, do_sample=False)
        assert processor.decode(tokens[0], skip_special_tokens=True).strip() == row.caption


@torch.inference_mode()
def test_embeddings_equal_open_clip_one_at_a_time(photographs: pd.DataFrame) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{MODELS / 'embedder'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{MODELS / 'embedder'}")
    model.eval()
    for row in photographs.itertuples():
        image = model.encode_image(preprocess(Image.open(row.image_uri).convert("RGB"))[None], normalize=True)[
            0
        ].numpy()
        title, caption = (
            model.encode_text(tokenizer([text]), normalize=True)[0].numpy() for text in (row.title, row.caption)
        )
        for stored, reference in ((row.clip_image, image), (row.clip_title, title), (row.clip_caption, caption)):
            stored = np.asarray(stored, dtype=np.float64)
            assert 1 - stored @ reference / np.linalg.norm(stored) / np.linalg.norm(reference) < 1e-5
        assert row.similarity_title_caption == pytest.approx(float(title @ caption), abs=1e-4)
        assert row.similarity_image_title == pytest.approx(float(image @ title), abs=1e-4)
        assert row.similarity_image_caption == pytest.approx(float(image @ caption), abs=1e-4)


@pytest.mark.slow
@torch.inference_mode()
def test_perplexity_equals_the_loss_one_at_a_time(photographs: pd.DataFrame) -> None:
    model = AutoModelForCausalLM.from_pretrained(MODELS / "language_model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "language_model")
    for row in photographs.itertuples():
        ids = tokenizer(row.title, add_special_tokens=False)["input_ids"]
        tokens = torch.tensor([[tokenizer.bos_token_id, *ids]])
        loss = model(tokens, labels=tokens).loss.item()
        assert row.title_token_count == len(ids)
        assert row.title_mean_nll == pytest.approx(loss, rel=1e-4)
        assert row.title_perplexity == pytest.approx(np.exp(loss), rel=1e-4)


@pytest.mark.slow
def test_spread_and_colocated_give_the_same(
    flickr_photos: Path, photographs: pd.DataFrame, session: RaySession, tmp_path: Path
) -> None:
    features = {
        "families": ["caption", "clip", "perplexity"],
        "placement": "spread",
        "clip": {"batch_size": 7},
        "perplexity": {"batch_size": "auto"},
    }
    config = table_config(tmp_path / "run", flickr_photos / "posts.csv", features, post_id="photo_id")
    spread = exported(run_features(config, session), tmp_path).set_index("post_id").loc[photographs["post_id"]]
    expected = photographs.set_index("post_id")
    assert (spread["caption"] == expected["caption"]).all()
    for name in ("similarity_title_caption", "similarity_image_title", "title_perplexity"):
        np.testing.assert_allclose(spread[name], expected[name], rtol=1e-4, atol=1e-5)
    for name in ("clip_image", "clip_title", "clip_caption"):
        np.testing.assert_allclose(vectors(spread, name), vectors(expected, name), atol=1e-3)
    for family in ("caption", "clip", "perplexity"):
        assert (spread[f"{family}_status"] == "ok").all()


@pytest.mark.thorough
def test_published_sizes(flickr_photos: Path, session: RaySession, tmp_path: Path) -> None:
    """Random weights of ViT-B-32, BLIP-base and GPT-2 small, through the keys that name the published ones."""
    from jobs.bench.random_weights import write_random_captioner, write_random_clip, write_random_language_model

    write_random_captioner(tmp_path / "blip", "base")
    write_random_clip(tmp_path / "vit-b-32.safetensors", "ViT-B-32")
    write_random_language_model(tmp_path / "gpt2", "gpt2")
    posts = pd.read_csv(flickr_photos / "posts.csv").head(3)
    posts["image"] = [str(flickr_photos / name) for name in posts["image"]]
    (tmp_path / "images").mkdir()
    for path in posts["image"]:
        shutil.copy(path, tmp_path / "images")
    posts["image"] = ["images/" + Path(path).name for path in posts["image"]]
    posts.to_csv(tmp_path / "posts.csv", index=False)
    features = {
        "families": ["caption", "clip", "perplexity"],
        "captioner": {"model": str(tmp_path / "blip"), "batch_size": 4},
        "clip": {"model": "ViT-B-32", "pretrained": str(tmp_path / "vit-b-32.safetensors"), "batch_size": 4},
        "perplexity": {"model": str(tmp_path / "gpt2")},
        "workers": 1,
    }
    config = table_config(tmp_path / "run", tmp_path / "posts.csv", features, post_id="photo_id")
    frame = exported(run_features(config, session), tmp_path)
    assert len(frame) == 3
    _assert_reference(frame, tmp_path)


@torch.inference_mode()
def _assert_reference(frame: pd.DataFrame, folder: Path) -> None:
    blip = AutoModelForImageTextToText.from_pretrained(folder / "blip", dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder / "blip")
    clip, _, preprocess = open_clip.create_model_and_transforms(
        "ViT-B-32", pretrained=str(folder / "vit-b-32.safetensors")
    )
    clip.eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    gpt2 = AutoModelForCausalLM.from_pretrained(folder / "gpt2", dtype=torch.float32).eval()
    gpt2_tokenizer = AutoTokenizer.from_pretrained(folder / "gpt2")
    for row in frame.itertuples():
        image = Image.open(row.image_uri).convert("RGB")
        tokens = blip.generate(
            **processor(images=image, return_tensors="pt"), max_new_tokens=20, num_beams=1, do_sample=False
        )
        assert processor.decode(tokens[0], skip_special_tokens=True).strip() == row.caption
        vector = clip.encode_image(preprocess(image)[None], normalize=True)[0].numpy()
        title = clip.encode_text(tokenizer([row.title]), normalize=True)[0].numpy()
        stored = np.asarray(row.clip_image, dtype=np.float64)
        assert 1 - stored @ vector / np.linalg.norm(stored) / np.linalg.norm(vector) < 1e-5
        assert row.similarity_image_title == pytest.approx(float(vector @ title), abs=1e-4)
        ids = gpt2_tokenizer(row.title, add_special_tokens=False)["input_ids"]
        batch = torch.tensor([[gpt2_tokenizer.bos_token_id, *ids]])
        assert row.title_mean_nll == pytest.approx(gpt2(batch, labels=batch).loss.item(), rel=1e-4)
