"""Our perplexity against the loss of plain transformers, one text at a time."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.bench.random_weights import write_random_language_model
from smp_ray.errors import ModelError
from smp_ray.families.perplexity import PerplexitySettings
from smp_ray.models import language_model as language_module
from smp_ray.models.language_model import PerplexityScorer
from tests.models.tiny import HARD_TEXTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_language_model(tmp_path_factory.mktemp("gpt2"), "tiny")


@pytest.fixture(scope="module")
def scorer(folder):
    return PerplexityScorer(PerplexitySettings(model=str(folder), batch_size=4), device="cpu")


def plain(folder, texts: list[str], max_tokens: int) -> tuple[list[float], list[int]]:
    """The documented use of transformers: the loss of one text after the start token."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    means, counts = [], []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:max_tokens]
        batch = torch.tensor([[tokenizer.bos_token_id, *ids]])
        with torch.no_grad():
            means.append(model(input_ids=batch, labels=batch).loss.item())
        counts.append(len(ids))
    return means, counts


def save_other(folder, target, model) -> str:
    """A model of another architecture with the tokenizer of `folder`."""
    AutoTokenizer.from_pretrained(folder).save_pretrained(target)
    model.save_pretrained(target)
    return str(target)


def test_equals_plain_transformers(folder, scorer):
    means, counts = scorer.score(HARD_TEXTS)
    expected, expected_counts = plain(folder, HARD_TEXTS, 63)
    np.testing.assert_allclose(means, expected, rtol=1e-5)
    assert counts.tolist() == expected_counts
    assert (means.dtype, counts.dtype) == (np.float64, np.int32)
    assert np.ptp(means) > 0.1


def test_at_most_max_tokens_and_the_models_context(folder, scorer):
    assert scorer.longest == 63  # 64 positions, one for the start token
    assert scorer.score(["word " * 400])[1].tolist() == [63]
    short = PerplexityScorer(PerplexitySettings(model=str(folder), max_tokens=5), device="cpu")
    means, counts = short.score(["word " * 400, "a"])
    assert counts.tolist() == [5, 1]
    np.testing.assert_allclose(means, plain(folder, ["word " * 400, "a"], 5)[0], rtol=1e-5)


@pytest.mark.parametrize("kind", ["GPT2", "Llama", "OPT", "GPTNeoX", "Gemma2", "Bloom"])
def test_a_text_has_the_same_numbers_in_any_batch(folder, tmp_path, kind, monkeypatch):
    import transformers

    torch.manual_seed(0)
    sizes = {"vocab_size": 2000, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128}
    sizes |= {
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 32,
        "initializer_range": 0.3,
    }
    config = getattr(transformers, f"{kind}Config")(**sizes, bos_token_id=1999, eos_token_id=1999, pad_token_id=None)
    architecture = f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    model = save_other(folder, tmp_path, getattr(transformers, architecture)(config))
    monkeypatch.setattr(language_module, "LOGITS_A_BATCH", 150 * 2000)  # so that texts come in several batches
    scorer = PerplexityScorer(PerplexitySettings(model=model, batch_size=6), device="cpu")
    means, counts = scorer.score(HARD_TEXTS)
    np.testing.assert_allclose(means, plain(model, HARD_TEXTS, scorer.longest)[0], rtol=1e-4)
    order = np.random.default_rng(0).permutation(len(HARD_TEXTS))
    shuffled, shuffled_counts = scorer.score([HARD_TEXTS[row] for row in order])
    np.testing.assert_allclose(shuffled, means[order], rtol=1e-4)
    np.testing.assert_array_equal(shuffled_counts, counts[order])
    alone = np.concatenate([scorer.score([text])[0] for text in HARD_TEXTS])
    np.testing.assert_allclose(alone, means, rtol=1e-4)


def test_texts_without_tokens(scorer):
    means, counts = scorer.score(["", "a", ""])
    assert np.isnan(means[[0, 2]]).all()
    assert np.isfinite(means[1])
    assert counts.tolist() == [0, 1, 0]
    assert scorer.score([])[0].shape == scorer.score([])[1].shape == (0,)


def test_a_very_long_text_takes_no_time(scorer):
    begin = time.perf_counter()
    scorer.score(["word " * 20_000, "x" * 100_000, "🎉" * 25_000, "\0" * 100_000])
    assert time.perf_counter() - begin < 5


def test_no_start_token_falls_back_to_the_end_token_or_says_so(folder, tmp_path):
    for name in folder.iterdir():
        (tmp_path / name.name).write_bytes(name.read_bytes())
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"bos_token": None}))
    assert PerplexityScorer(PerplexitySettings(model=str(tmp_path)), device="cpu")._start == 1999
    path.write_text(json.dumps(config | {"bos_token": None, "eos_token": None}))
    with pytest.raises(ModelError, match="no start and no end token"):
        PerplexityScorer(PerplexitySettings(model=str(tmp_path)), device="cpu")


def test_a_model_that_sees_later_tokens_is_refused(folder, tmp_path):
    from transformers import BertConfig, BertLMHeadModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = save_other(folder, tmp_path, BertLMHeadModel(BertConfig(vocab_size=2000, initializer_range=0.5, **sizes)))
    with pytest.raises(ModelError, match="no causal language model"):
        PerplexityScorer(PerplexitySettings(model=model), device="cpu")


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=1500, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    with pytest.raises(ModelError, match="do not belong together"):
        PerplexityScorer(PerplexitySettings(model=save_other(folder, tmp_path, GPT2LMHeadModel(config))), device="cpu")


@pytest.mark.parametrize(("settings", "words"), [
    ({"model": "./nowhere"}, "no model folder"),
    ({"model": "someone/some-model"}, "HF_HUB_OFFLINE"),
    ({"model": "FOLDER", "gguf_file": "no.gguf"}, "no.gguf"),
])  # fmt: skip
def test_wrong_settings_end_in_one_line(folder, settings, words):
    settings = settings | {"model": settings["model"].replace("FOLDER", str(folder))}
    with pytest.raises(ModelError, match=words) as caught:
        PerplexityScorer(PerplexitySettings(**settings))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_published_size(tmp_path):
    folder = write_random_language_model(tmp_path, "gpt2")
    scorer = PerplexityScorer(PerplexitySettings(model=str(folder), batch_size=8), device="cpu")
    texts = HARD_TEXTS[:12]
    means, counts = scorer.score(texts)
    expected, expected_counts = plain(folder, texts, 256)
    np.testing.assert_allclose(means, expected, rtol=1e-4)
    assert counts.tolist() == expected_counts
    assert sum(parameter.numel() for parameter in scorer._model.parameters()) == 124_439_808
