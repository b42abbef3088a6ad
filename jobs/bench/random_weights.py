"""Models of the published sizes and tiny ones with random weights, made without a network.

The tokenizers are made from the word list that open_clip brings along; they cut English much as the real ones do.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip.tokenizer import default_bpe
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

#: Vocabulary sizes of BLIP's and GPT-2's published tokenizers.
BLIP_TOKENS, GPT2_TOKENS = 30_524, 50_257
#: Vocabulary sizes of the tiny models.
TINY_TOKENS = 2_000


def write_random_clip(path: str | Path, name: str = "ViT-B-32", seed: int = 0) -> Path:
    """Write weights for the open_clip model `name` to the file `path` (`.safetensors`, or `.pt` for a state dict).

    Used by settings with `model: <name>` and `pretrained: <path>`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.create_model(name, pretrained=None, pretrained_text=False)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


def write_random_captioner(folder: str | Path, size: Literal["base", "tiny"] = "base", seed: int = 0) -> Path:
    """Write a BLIP captioner to `folder`: `base` has the sizes of Salesforce/blip-image-captioning-base."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    folder = Path(folder)
    tokens = BLIP_TOKENS if size == "base" else TINY_TOKENS
    # Random beginnings of sentences would end at once, or never, depending on the seed; the tokens are the
    # published ones in both sizes: [PAD] 0, [SEP] 102, and [DEC] and [ENC] last.
    text: dict[str, Any] = {"vocab_size": tokens, "bos_token_id": tokens - 2, "eos_token_id": 2, "sep_token_id": 102}
    vision: dict[str, Any] = {"image_size": 384}
    if size == "tiny":
        text |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        text |= {"encoder_hidden_size": 32, "max_position_embeddings": 64, "initializer_range": 0.5}
        vision = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64}
        vision |= {"num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.5}
    side = vision["image_size"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    model.save_pretrained(folder)
    tokenizer = BertTokenizer(vocab=_wordpiece_vocabulary(tokens), additional_special_tokens=["[DEC]", "[ENC]"])
    BlipProcessor(BlipImageProcessor(size={"height": side, "width": side}), tokenizer).save_pretrained(folder)
    return folder


def write_random_language_model(folder: str | Path, size: Literal["gpt2", "tiny"] = "gpt2", seed: int = 0) -> Path:
    """Write a GPT-2 language model to `folder`: `gpt2` has the sizes of openai-community/gpt2 (124 M parameters)."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

    folder = Path(folder)
    tokens = GPT2_TOKENS if size == "gpt2" else TINY_TOKENS
    settings: dict[str, Any] = {"vocab_size": tokens, "bos_token_id": tokens - 1, "eos_token_id": tokens - 1}
    if size == "tiny":
        settings |= {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.5}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config(**settings))
    model.save_pretrained(folder)
    vocabulary, merges = _byte_pair_vocabulary(tokens)
    make: Any = GPT2Tokenizer
    make(vocab=vocabulary, merges=merges).save_pretrained(folder)
    return folder


def _words() -> list[tuple[str, bool]]:
    """(word or beginning of a word, whether it is a whole word) of CLIP's vocabulary, most frequent first."""
    with gzip.open(default_bpe()) as file:
        merges = file.read().decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    pieces = ["".join(merge.split()) for merge in merges]
    return [(piece.removesuffix("</w>"), piece.endswith("</w>")) for piece in pieces if piece.isascii()]


def _wordpiece_vocabulary(size: int) -> dict[str, int]:
    """BERT's special tokens at their published places, letters, words, word endings, and fillers up to `size`."""
    special = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
    special |= {"[DEC]": size - 2, "[ENC]": size - 1}
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = dict.fromkeys([*letters, *(f"##{letter}" for letter in letters)])
    for word, whole in _words():
        pieces.update(dict.fromkeys([word] if whole else [word, f"##{word}"]))
    free = [index for index in range(size) if index not in special.values()]
    candidates = [piece for piece in pieces if piece not in special] + [f"[unused{index}]" for index in range(size)]
    return special | dict(zip(candidates, free, strict=False))


def _byte_pair_vocabulary(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level BPE vocabulary of exactly `size` entries, <|endoftext|> the last, trained on a list of words."""
    import json

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    words = [word for word, whole in _words() if whole]
    tokenizer.train_from_iterator((f"{word} {word}" for word in words), trainer)
    state = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = state["vocab"]
    for index in range(len(vocabulary), size - 1):
        vocabulary[f"[unused{index}]"] = index
    vocabulary["<|endoftext|>"] = size - 1
    return vocabulary, [(left, right) for left, right in state["merges"]]
