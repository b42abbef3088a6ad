"""Train the sample world's CLIP, an open_clip model, and save it as a folder for open_clip's `local-dir:` schema."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

from smp_ray.demo.scenes import COLOURS, PLACES, SUBJECTS
from smp_ray.demo.training.pool import MEAN, PIXELS, STD, Pool, batches, matching_titles, unmatched_titles
from smp_ray.demo.training.schedule import Progress, make_optimizer

CONTEXT = 32
VOCABULARY = 1000
EMBEDDING = 64
UNMATCHED = 64


def train_embedder(pool: Pool, steps: int, batch_size: int, seed: int, folder: Path) -> Any:
    """Train on the pool's pictures with their captions and titles; unmatched titles are negatives for every picture.

    Three throw-away linear heads predict subject, colour and place from the picture's embedding: without them the
    vision tower needs many times the steps to tell silhouettes apart.
    """
    torch.manual_seed(seed)
    captions = [scene.caption() for scene in pool.scenes]
    titles = [matching_titles(pool.scenes, seed + turn) for turn in range(3)]
    unmatched = unmatched_titles(20_000, seed)
    tokenizer = make_tokenizer(captions[:2000] + titles[0] + unmatched)
    folder.mkdir(parents=True, exist_ok=True)
    config = _model_config(len(tokenizer))
    _save_config(config, folder)
    tokenizer.save_pretrained(folder)
    encode = open_clip.get_tokenizer(f"local-dir:{folder}")
    texts = torch.stack([encode(captions), *(encode(turn) for turn in titles)])
    negatives = encode(unmatched)

    model = open_clip.CLIP(**config)
    heads = nn.ModuleList([nn.Linear(EMBEDDING, len(names)) for names in (SUBJECTS, COLOURS, PLACES)])
    optimizer, scheduler = make_optimizer([(model, 1e-3), (heads, 1e-3)], steps)
    chance = torch.Generator().manual_seed(seed)
    progress = Progress("embedder", steps)
    for chosen, pictures in batches(pool, batch_size, steps, seed):
        turn = 1 + int(torch.randint(len(titles), (1,), generator=chance))
        extra = negatives[torch.randint(len(negatives), (UNMATCHED,), generator=chance)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image = model.encode_image(pictures)
            parts = [_encode_text(model, tokens) for tokens in (texts[0, chosen], texts[turn, chosen], extra)]
        text = torch.cat(parts)
        loss = _loss(model, heads, image.float(), text.float(), pool.attributes[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)  # at most 100, as in the CLIP paper
        progress.step(loss)
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()},
              folder / "open_clip_model.safetensors")  # fmt: skip
    return model.eval()


def _encode_text(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The model's own text encoding without the padding all rows share: causal attention never looks at it."""
    length = int((tokens != 0).sum(1).max())
    words = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    words = model.ln_final(model.transformer(words, attn_mask=model.attn_mask[:length, :length]))
    ends = tokens.argmax(1)
    return words[torch.arange(len(tokens)), ends] @ model.text_projection


def _loss(
    model: Any, heads: nn.ModuleList, image: torch.Tensor, text: torch.Tensor, attributes: torch.Tensor
) -> torch.Tensor:
    """Contrastive loss of pictures, captions and titles, plus the heads'; equal captions are each other's match."""
    count = len(image)
    key = attributes @ torch.tensor([1000, 50, 1])
    target = (key[:, None] == key[None, :]).float()
    target = target / target.sum(1, keepdim=True)
    wide = F.pad(target, (0, len(text) - 2 * count))
    unit = F.normalize(image, dim=-1)
    captions, titles, extra = F.normalize(text, dim=-1).split([count, count, len(text) - 2 * count])
    scale = model.logit_scale.exp()
    loss = image.new_zeros(())
    for words in (captions, titles):
        loss = loss + F.cross_entropy(scale * unit @ torch.cat([words, extra]).T, wide)
        loss = loss + F.cross_entropy(scale * words @ unit.T, target)
    # The inconsistency measure is cosine(caption, title), so the two texts are also matched with each other.
    loss = loss + F.cross_entropy(scale * captions @ torch.cat([titles, extra]).T, wide)
    loss = loss + F.cross_entropy(scale * titles @ captions.T, target)
    for column, head in enumerate(heads):
        loss = loss + F.cross_entropy(head(image), attributes[:, column])
    return loss


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A lower-casing byte-level BPE whose end token has the highest id, where open_clip pools the text."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<start>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.add_special_tokens(["<end>"])
    ends = [(token, core.token_to_id(token)) for token in ("<start>", "<end>")]
    core.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<start>", eos_token="<end>", model_max_length=CONTEXT
    )


def _model_config(vocabulary: int) -> dict[str, Any]:
    vision = {"image_size": PIXELS, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32}
    text = {"context_length": CONTEXT, "vocab_size": vocabulary, "width": 96, "heads": 3, "layers": 2}
    return {
        "embed_dim": EMBEDDING,
        # No layer norm before the blocks and mean pooling: the captioner's BLIP vision tower can start from this one.
        "vision_cfg": {**vision, "no_ln_pre": True, "pool_type": "avg"},
        # Any name makes open_clip read the tokenizer from the model's own folder.
        "text_cfg": {**text, "hf_tokenizer_name": "local"},
    }


def _save_config(config: dict[str, Any], folder: Path) -> None:
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    content = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2)
    (folder / "open_clip_config.json").write_text(content + "\n")
