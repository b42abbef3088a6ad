"""How surprising a text is to a causal language model: mean negative log-likelihood a token, in nats.

Perplexity is its exponential (Jelinek et al. 1977); the first token is scored too, given the model's start token.
"""

from typing import Any

import numpy as np

from smp_ray.errors import ModelError
from smp_ray.models.batches import TOKENS_A_BATCH, by_length
from smp_ray.models.loading import explained, load_whole, prepare, pretrained
from smp_ray.models.settings import LanguageModelSettings

#: The folder of the model that comes with the project.
EMBEDDED = "language_model"
#: Logits of one forward pass at most: 256 MiB in float32, several times during the log-softmax.
LOGITS_A_BATCH = 2**26
#: Target where there is none.
_IGNORED = -100


class PerplexityScorer:
    """A loaded causal language model, on `device`.

    `longest` is how many tokens of a text are scored at most, by the settings and by the model's context.
    """

    def __init__(self, settings: LanguageModelSettings, device: str | None = None, threads: int | None = None) -> None:
        """Load the model and its tokenizer; `device` and `threads` as in `prepare`.

        Raises:
            ModelError: if it cannot be loaded whole, has no start token, or is no causal language model.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.device, dtype = prepare(settings.dtype, device, threads)
        self._batch_size = settings.batch_size
        arguments = pretrained(settings, EMBEDDED) | {"gguf_file": settings.gguf_file}
        with explained(settings.model):
            self._tokenizer: Any = AutoTokenizer.from_pretrained(**arguments)
            model = load_whole(AutoModelForCausalLM, settings.model, dtype=dtype, **arguments)
            self._model = model.to(self.device).eval()
        config = self._model.config.get_text_config()
        self.longest = min(settings.max_tokens, (getattr(config, "max_position_embeddings", None) or 2**31) - 1)
        self._vocabulary = int(self._model.get_output_embeddings().weight.shape[0])
        self._tokens_a_batch = min(TOKENS_A_BATCH[self.device.type], LOGITS_A_BATCH // self._vocabulary)
        tokens = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id)
        self._start = next((int(token) for token in tokens if token is not None), -1)
        self._check(settings.model)

    def score(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Score texts; a text's numbers do not depend on the others.

        Returns:
            (mean negative log-likelihood in nats a token, float64 of shape (n,); scored tokens, int32 of shape (n,)).
            A text without tokens has NaN and 0.
        """
        if not texts:
            return np.zeros(0), np.zeros(0, np.int32)
        encoded = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        tokens = [ids[: self.longest] for ids in encoded["input_ids"]]
        counts = np.array([len(ids) for ids in tokens], np.int32)
        sums = np.zeros(len(texts))
        # One more for the start token, but none for a text without tokens.
        for rows in by_length(counts + (counts > 0), self._batch_size, self._tokens_a_batch):
            sums[rows] = self._negative_log_likelihood([tokens[row] for row in rows])
        with np.errstate(invalid="ignore"):
            return sums / np.where(counts > 0, counts, np.nan), counts

    def _negative_log_likelihood(self, tokens: list[list[int]]) -> np.ndarray:
        """Summed negative log-likelihood (float64) of each token list, none of them empty."""
        import torch
        from torch.nn.functional import cross_entropy
        from torch.nn.utils.rnn import pad_sequence

        # Input: start token and all but the last; the last is only predicted. Padding is to the right, where a
        # causal model cannot see it, and masked besides.
        inputs = [torch.tensor([self._start, *ids[:-1]]) for ids in tokens]
        targets = [torch.tensor(ids) for ids in tokens]
        padded = pad_sequence(inputs, batch_first=True, padding_value=self._start).to(self.device)
        wanted = pad_sequence(targets, batch_first=True, padding_value=_IGNORED).to(self.device)
        with torch.inference_mode():
            mask = (wanted != _IGNORED).long()
            logits = self._model(input_ids=padded, attention_mask=mask, use_cache=False).logits
            # Over all of them: a copy of the logits that count would cost as much as the losses.
            losses = cross_entropy(
                logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=_IGNORED, reduction="none"
            )
            return losses.view(wanted.shape).double().sum(dim=1).cpu().numpy()

    def _check(self, model: str) -> None:
        import torch

        if self._start < 0:
            raise ModelError(f"the tokenizer of '{model}' has no start and no end token")
        if len(self._tokenizer) > self._vocabulary:
            raise ModelError(
                f"model '{model}' knows {self._vocabulary} tokens but its tokenizer makes "
                f"{len(self._tokenizer)}: they do not belong together"
            )
        # An encoder such as BERT loads as a causal model too, but sees the token that it is to predict.
        ids = [self._start] * min(4, self.longest + 1)
        changed = [*ids[:-1], (self._start + 1) % self._vocabulary]
        with torch.inference_mode():
            batch = torch.tensor([ids, changed], device=self.device)
            first, second = self._model(input_ids=batch, use_cache=False).logits[:, :-1].float()
        if not torch.allclose(first, second, rtol=1e-3, atol=1e-3):
            raise ModelError(f"'{model}' sees later tokens: it is no causal language model")
