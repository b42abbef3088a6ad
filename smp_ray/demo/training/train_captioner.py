"""Train the sample world's captioner, a BLIP, on the pool's pictures, its vision tower started from the CLIP's."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    PreTrainedTokenizerFast,
)

from smp_ray.demo.scenes import COLOURS, PLACES, SUBJECTS
from smp_ray.demo.training.pool import MEAN, PIXELS, STD, Pool, batches
from smp_ray.demo.training.schedule import Progress, make_optimizer, save_half

PAD, UNKNOWN, END, START = "[PAD]", "[UNK]", "[SEP]", "[DEC]"


def train_captioner(
    pool: Pool, clip: Any, steps: int, batch_size: int, seed: int, folder: Path
) -> BlipForConditionalGeneration:
    """Train with teacher forcing on the canonical captions, save model and processor in `folder`, return the model.

    The vision tower learns at a third of the decoder's rate: it already knows the scenes from `clip`.
    """
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    model = BlipForConditionalGeneration(_model_config(tokenizer, clip))
    copy_vision_tower(clip.visual, model.vision_model)
    processor = BlipProcessor(
        BlipImageProcessor(size={"height": PIXELS, "width": PIXELS}, image_mean=MEAN, image_std=STD), tokenizer
    )
    tokens = tokenizer([scene.caption() for scene in pool.scenes], padding=True, return_tensors="pt").input_ids
    tokens[:, 0] = tokenizer.bos_token_id
    optimizer, scheduler = make_optimizer([(model.vision_model, 3e-4), (model.text_decoder, 1e-3)], steps)
    progress = Progress("captioner", steps)
    for chosen, pictures in batches(pool, batch_size, steps, seed + 1):
        words = tokens[chosen]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            labels = words.masked_fill(words == tokenizer.pad_token_id, -100)
            loss = model(pixel_values=pictures, input_ids=words, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        progress.step(loss)
    save_half(model.eval(), folder)
    processor.save_pretrained(folder)
    return model


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words: the captions' own, since a captioner never reads foreign text."""
    phrases = " ".join(PLACES.values()).split()
    vocabulary = [PAD, UNKNOWN, "[CLS]", END, START, *dict.fromkeys(["a", *COLOURS, *SUBJECTS, *phrases])]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, core.token_to_id(token)) for token in ("[CLS]", END)]
    core.post_processor = processors.TemplateProcessing(single=f"[CLS] $A {END}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token="[CLS]",
        sep_token=END,
        bos_token=START,
        model_max_length=32,
    )


def copy_vision_tower(source: Any, target: nn.Module) -> None:
    """Copy an open_clip vision transformer without pre-norm into a BLIP vision model of the same size."""
    target.load_state_dict(_renamed(source), strict=True)


def _renamed(source: Any) -> dict[str, torch.Tensor]:
    """BLIP's names for open_clip's vision weights; open_clip's patch embedding has no bias, BLIP's starts at zero."""
    weights = {
        "embeddings.class_embedding": source.class_embedding.view(1, 1, -1),
        "embeddings.position_embedding": source.positional_embedding[None],
        "embeddings.patch_embedding.weight": source.conv1.weight,
        "embeddings.patch_embedding.bias": torch.zeros(source.conv1.out_channels),
        "post_layernorm.weight": source.ln_post.weight,
        "post_layernorm.bias": source.ln_post.bias,
    }
    for i, block in enumerate(source.transformer.resblocks):
        pairs = {
            "layer_norm1": block.ln_1,
            "layer_norm2": block.ln_2,
            "self_attn.projection": block.attn.out_proj,
            "mlp.fc1": block.mlp.c_fc,
            "mlp.fc2": block.mlp.c_proj,
        }
        for name, module in pairs.items():
            weights |= {f"encoder.layers.{i}.{name}.{part}": value for part, value in module.named_parameters()}
        weights[f"encoder.layers.{i}.self_attn.qkv.weight"] = block.attn.in_proj_weight
        weights[f"encoder.layers.{i}.self_attn.qkv.bias"] = block.attn.in_proj_bias
    return {name: value.detach() for name, value in weights.items()}


def _model_config(tokenizer: PreTrainedTokenizerFast, clip: Any) -> BlipConfig:
    blocks = clip.visual.transformer.resblocks
    width, heads = clip.visual.conv1.out_channels, blocks[0].attn.num_heads
    vision = {
        "hidden_size": width,
        "intermediate_size": width * 4,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": heads,
        "image_size": PIXELS,
        "patch_size": clip.visual.conv1.kernel_size[0],
        "initializer_range": 0.02,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": width * 4,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "max_position_embeddings": 64,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return BlipConfig(vision_config=vision, text_config=text)
