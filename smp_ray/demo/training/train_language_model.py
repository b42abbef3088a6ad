"""Train the sample world's language model, a GPT-2, on well-spelt titles."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from smp_ray.demo.training.pool import clean_texts
from smp_ray.demo.training.schedule import Progress, make_optimizer, save_half

CONTEXT = 256
VOCABULARY = 1200
BOS = "<|endoftext|>"


def train_language_model(texts: int, steps: int, batch_size: int, seed: int, folder: Path) -> GPT2LMHeadModel:
    """Train on `texts` titles, each after a start token, save model and tokenizer in `folder`, return the model.

    One batch in five packs titles up to the whole context, so that every position is trained.
    """
    torch.manual_seed(seed)
    corpus = clean_texts(texts, seed)
    tokenizer = make_tokenizer(corpus)
    bos = tokenizer.bos_token_id
    rows = [[bos, *ids, bos] for ids in tokenizer(corpus).input_ids]
    model = GPT2LMHeadModel(_model_config(len(tokenizer), bos))
    optimizer, scheduler = make_optimizer([(model, 1e-3)], steps)
    chance = torch.Generator().manual_seed(seed)
    progress = Progress("language model", steps)
    for step in range(steps):
        tokens, labels = _batch(rows, batch_size, chance, packed=step % 5 == 4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=tokens, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        progress.step(loss)
    save_half(model.eval(), folder)
    tokenizer.save_pretrained(folder)
    return model


def _batch(
    rows: list[list[int]], size: int, chance: torch.Generator, *, packed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels (-100 at padding), (size, longest title), or a few rows of the whole context when packed."""
    picked = [rows[i] for i in torch.randint(len(rows), (size,), generator=chance).tolist()]
    if packed:
        stream = [token for row in picked for token in row[:-1]]
        count = max(1, len(stream) // CONTEXT)
        tokens = torch.tensor(stream[: count * CONTEXT]).view(count, -1)
        return tokens, tokens
    length = max(map(len, picked))
    tokens = torch.tensor([row + [0] * (length - len(row)) for row in picked])
    labels = torch.tensor([row + [-100] * (length - len(row)) for row in picked])
    return tokens, labels


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's, small: it can spell any text, the unknown byte by byte."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, eos_token=BOS, unk_token=BOS, model_max_length=CONTEXT
    )


def _model_config(vocabulary: int, bos: int) -> GPT2Config:
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=CONTEXT,
        n_embd=128,
        n_layer=3,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=bos,
        eos_token_id=bos,
    )
