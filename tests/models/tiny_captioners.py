"""Tiny captioners of the architectures beside BLIP, with random weights and tokenizers made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from jobs.bench import random_weights

VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 2, "initializer_range": 0.5}
TOKENS, QUERIES = random_weights.TINY_TOKENS, 4


def tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def write(kind: str, folder: Path) -> Path:
    """Write one of blip2-opt, blip2-t5, instructblip-opt, instructblip-t5, git, vision-encoder-decoder."""
    torch.manual_seed(0)
    if kind == "git":
        return _git(folder)
    if kind == "vision-encoder-decoder":
        return _encoder_decoder(folder)
    family, language = kind.split("-")
    return _query_transformer(folder, "Blip2" if family == "blip2" else "InstructBlip", language)


def _bert_tokenizer() -> Any:
    return transformers.BertTokenizer(vocab=random_weights._wordpiece_vocabulary(TOKENS))


def _gpt2_tokenizer() -> Any:
    vocabulary, merges = random_weights._byte_pair_vocabulary(TOKENS)
    return transformers.GPT2Tokenizer(vocab=vocabulary, merges=merges, pad_token="<|endoftext|>")


def _query_transformer(folder: Path, family: str, language: str) -> Path:
    text_tokenizer = _gpt2_tokenizer()
    text_tokenizer.add_tokens(["<image>"], special_tokens=True)
    special = {"bos_token_id": TOKENS - 1, "eos_token_id": TOKENS - 1, "pad_token_id": TOKENS - 1}
    if language == "opt":
        text = transformers.OPTConfig(
            vocab_size=TOKENS + 1, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2,
            word_embed_proj_dim=32, max_position_embeddings=64, init_std=0.5, **special,
        )  # fmt: skip
    else:
        text = transformers.T5Config(
            vocab_size=TOKENS + 1, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
            decoder_start_token_id=TOKENS - 1, initializer_factor=2.0, **special,
        )  # fmt: skip
    query = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    query |= {"encoder_hidden_size": 32, "vocab_size": TOKENS, "initializer_range": 0.5, "cross_attention_frequency": 1}
    config = getattr(transformers, f"{family}Config")(
        vision_config=VISION, qformer_config=query, text_config=text.to_dict(), num_query_tokens=QUERIES,
        image_token_index=TOKENS,
    )  # fmt: skip
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    torch.nn.init.normal_(model.query_tokens)
    model.save_pretrained(folder)
    pictures = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    tokenizers = [text_tokenizer] if family == "Blip2" else [text_tokenizer, _bert_tokenizer()]
    getattr(transformers, f"{family}Processor")(pictures, *tokenizers, num_query_tokens=QUERIES).save_pretrained(folder)
    return folder


def _git(folder: Path) -> Path:
    text = {"vocab_size": TOKENS, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "bos_token_id": 101, "eos_token_id": 102, "initializer_range": 0.5}
    transformers.GitForCausalLM(transformers.GitConfig(vision_config=VISION, **text)).save_pretrained(folder)
    pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.GitProcessor(pictures, _bert_tokenizer()).save_pretrained(folder)
    return folder


def _encoder_decoder(folder: Path) -> Path:
    encoder = transformers.ViTConfig(**VISION)
    decoder = transformers.GPT2Config(
        vocab_size=TOKENS, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5,
        add_cross_attention=True, is_decoder=True, bos_token_id=TOKENS - 1, eos_token_id=TOKENS - 1,
    )  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id = config.pad_token_id = TOKENS - 1
    model = transformers.VisionEncoderDecoderModel(config)
    model.generation_config.decoder_start_token_id = model.generation_config.pad_token_id = TOKENS - 1
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    _gpt2_tokenizer().save_pretrained(folder)
    return folder
