"""How surprising a text is to a causal language model: mean negative log-likelihood a token, in nats.

Perplexity is its exponential (Jelinek et al. 1977); the first token is scored too, given the model's start token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from smp_ray.errors import ModelError
from smp_ray.models.loading import explained, load_whole, model_folder, resolve_device, resolve_dtype, set_threads
from smp_ray.models.settings import LanguageModelSettings

if TYPE_CHECKING:
    import torch

#: The folder of the model that comes with the project.
EMBEDDED = "language_model"
#: Padded tokens of one forward pass at most, by kind of device: bounds the activations. A CPU is fastest while they
#: stay in its cache (measured with a model of 135 M parameters: 8,192 tokens at once take twice as long as 512).
TOKENS_A_BATCH = {"cpu": 512, "cuda": 16_384}
#: Float32 logits held at once at most, by kind of device (16 and 256 MiB, twice during the log-softmax).
LOGITS_A_SLICE = {"cpu": 2**22, "cuda": 2**26}
#: Models whose forward pass is exactly base model, then one linear layer; the others take their own full forward.
HEAD_IS_LINEAR = {"GPT2LMHeadModel", "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"}

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len", "seq_length")


class PerplexityScorer:
    """A loaded causal language model.

    Attributes:
        device: where the model runs.
        longest: tokens of a text that are scored at most, by the settings and by the model's context.
    """

    #: Of the weights on a GPU where the settings say 'auto': the number is a measurement.
    GPU_DTYPE = "float32"

    def __init__(self, settings: LanguageModelSettings, device: str | None = None, threads: int | None = None) -> None:
        """Load the model and its tokenizer.

        Args:
            settings: which model, its dtype and bounds.
            device: None takes CUDA where there is one.
            threads: CPU threads of torch in this process; None leaves them.

        Raises:
            ModelError: if it cannot be loaded whole, has no start token, or is no causal language model.
        """
        set_threads(threads)
        self.device = resolve_device(device)
        self._batch_size = settings.batch_size
        self._token_budget = TOKENS_A_BATCH.get(self.device.type, TOKENS_A_BATCH["cpu"])
        self._logits_budget = LOGITS_A_SLICE.get(self.device.type, LOGITS_A_SLICE["cpu"])
        dtype = resolve_dtype(settings.dtype, self.device, gpu_dtype=self.GPU_DTYPE)
        with explained(settings.model):
            self._tokenizer, self._model = _load(settings, dtype)
        self._model = self._model.to(self.device).eval()
        self._start = _start_token(self._tokenizer, settings.model)
        self._check_vocabulary(settings.model)
        self.longest = min(settings.max_tokens, _context(self._model.config) - 1)
        self._linear_head = type(self._model).__name__ in HEAD_IS_LINEAR
        self._check_causal(settings.model)

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
        for rows in self._batches(counts):
            sums[rows] = self._negative_log_likelihood([tokens[row] for row in rows])
        with np.errstate(invalid="ignore"):
            return sums / np.where(counts > 0, counts, np.nan), counts

    def _batches(self, counts: np.ndarray) -> list[np.ndarray]:
        """Rows of similar length together, bounded by texts and by padded tokens."""
        order = np.argsort(counts, kind="stable")
        batches, start = [], int(np.searchsorted(counts[order], 1))
        while start < len(order):
            stop = start + 1
            while stop < len(order) and stop - start < self._batch_size:
                # Sorted ascending, so the next text is the longest of the batch; one more for the start token.
                if (stop - start + 1) * (int(counts[order[stop]]) + 1) > self._token_budget:
                    break
                stop += 1
            batches.append(order[start:stop])
            start = stop
        return batches

    def _negative_log_likelihood(self, tokens: list[list[int]]) -> np.ndarray:
        """Summed negative log-likelihood (float64) of each token list, none of them empty."""
        import torch

        lengths = torch.tensor([len(ids) for ids in tokens])
        width = int(lengths.max())
        # Input: start token and all but the last; the last is only predicted. Padding is to the right, where a
        # causal model cannot see it, and masked besides.
        inputs = torch.full((len(tokens), width), self._start, dtype=torch.long)
        targets = torch.zeros((len(tokens), width), dtype=torch.long)
        for row, ids in enumerate(tokens):
            inputs[row, 1 : len(ids)] = torch.tensor(ids[:-1], dtype=torch.long)
            targets[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        real = torch.arange(width)[None, :] < lengths[:, None]
        with torch.inference_mode():
            losses = self._losses(inputs.to(self.device), real.to(self.device), targets.to(self.device))
        sums = torch.zeros(len(tokens), dtype=torch.float64)
        sums.index_add_(0, real.nonzero()[:, 0], losses.double().cpu())
        return sums.numpy()

    def _losses(self, inputs: torch.Tensor, real: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy (float32) of every real position, row by row."""
        import torch

        wanted = targets[real]
        slice_rows = max(1, self._logits_budget // self._vocabulary)
        if self._linear_head:
            hidden = self._model.base_model(
                input_ids=inputs, attention_mask=real.long(), use_cache=False
            ).last_hidden_state[real]
            head = self._model.get_output_embeddings()
            return torch.cat(
                [
                    torch.nn.functional.cross_entropy(head(part).float(), part_wanted, reduction="none")
                    for part, part_wanted in zip(
                        torch.split(hidden, slice_rows), torch.split(wanted, slice_rows), strict=True
                    )
                ]
            )
        losses = []
        # A full forward holds the logits of every position, so fewer texts go at a time.
        step = max(1, slice_rows // inputs.shape[1])
        for start in range(0, len(inputs), step):
            stop = start + step
            mask = real[start:stop]
            logits = self._model(input_ids=inputs[start:stop], attention_mask=mask.long(), use_cache=False).logits
            losses.append(
                torch.nn.functional.cross_entropy(logits[mask].float(), targets[start:stop][mask], reduction="none")
            )
        return torch.cat(losses)

    def _check_vocabulary(self, model: str) -> None:
        self._vocabulary = int(self._model.get_output_embeddings().weight.shape[0])
        if len(self._tokenizer) > self._vocabulary:
            raise ModelError(
                f"model '{model}' knows {self._vocabulary} tokens but its tokenizer makes "
                f"{len(self._tokenizer)}: they do not belong together"
            )

    def _check_causal(self, model: str) -> None:
        """An encoder such as BERT loads as a causal model too, but sees the token that it is to predict."""
        import torch

        ids = [self._start] * min(4, self.longest + 1)
        changed = [*ids[:-1], (self._start + 1) % self._vocabulary]
        with torch.inference_mode():
            batch = torch.tensor([ids, changed], device=self.device)
            first, second = self._model(input_ids=batch, use_cache=False).logits[:, :-1].float()
        if not torch.allclose(first, second, rtol=1e-3, atol=1e-3):
            raise ModelError(f"'{model}' sees later tokens: it is no causal language model")


def _load(settings: LanguageModelSettings, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = model_folder(settings.model, EMBEDDED)
    options: dict[str, Any] = {} if folder else {"revision": settings.revision}
    if settings.gguf_file is not None:
        if folder is not None and not (folder / settings.gguf_file).is_file():
            raise ModelError(f"no GGUF file '{settings.gguf_file}' in '{settings.model}'")
        options["gguf_file"] = settings.gguf_file
    source = str(folder) if folder else settings.model
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    model = load_whole(AutoModelForCausalLM, source, settings.model, dtype=dtype, **options)
    return tokenizer, model


def _start_token(tokenizer: Any, model: str) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ModelError(f"the tokenizer of '{model}' has no start and no end token")


def _context(config: Any) -> int:
    """Tokens that the model can take at once; without a bound in its configuration, as many as are asked for."""
    text = config.get_text_config()
    bounds = [getattr(text, key) for key in _CONTEXT_KEYS if isinstance(getattr(text, key, None), int)]
    return min([bound for bound in bounds if bound > 1], default=2**31)
