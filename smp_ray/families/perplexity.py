"""perplexity: how surprising a title is to a causal language model."""

from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field

from smp_ray.families.base import TITLE, BatchSize, Column, Family, Measure, ModelSettings
from smp_ray.models.identity import transformers_identity


class PerplexitySettings(ModelSettings):
    """A causal language model of transformers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "openai-community/gpt2"}]})

    gguf_file: str | None = Field(None, description="name of a GGUF file inside the model folder")
    max_tokens: int = Field(256, ge=1, le=131_072, description="tokens of a text that are scored; the rest is cut")
    batch_size: BatchSize = Field(64, le=4096, description="texts a forward pass; auto: found while it computes")


class Perplexity(Family):
    """exp of the mean negative log-likelihood of the title's tokens, in nats (Jelinek et al. 1977)."""

    name = "perplexity"
    Settings = PerplexitySettings
    reads = (TITLE,)
    columns = (
        Column(
            "title_perplexity",
            pa.float32(),
            group="perplexity",
            measure=Measure(
                "perplexity of the title",
                "perplexity",
                scale="log",
                topic="text quality",
                largest="Most perplexing titles",
                smallest="Least perplexing titles",
                claim="Unpopular posts have poor text, popular ones carefully written text",
            ),
        ),
        Column("title_mean_nll", pa.float32(), group="perplexity"),
        # Not for a predictor: it is the title's length, which the metadata has, and would pass for text quality.
        Column("title_token_count", pa.int32()),
    )
    by_default = True
    external = "text perplexity under"
    about = (
        "Perplexity is the language model's surprise at the title: the higher, the less it reads like ordinary text."
    )

    def __init__(self, settings: PerplexitySettings, device: str, threads: int | None) -> None:
        from smp_ray.models.language_model import PerplexityScorer

        self._scorer = PerplexityScorer(settings, device, threads)

    def compute(self, *inputs: list[Any]) -> dict[str, Any]:
        """Perplexity, mean negative log-likelihood and number of scored tokens; nothing for a title without tokens."""
        (titles,) = inputs
        nll, counts = self._scorer.score(titles)
        return {
            "title_perplexity": np.exp(nll),
            "title_mean_nll": nll,
            "title_token_count": [int(count) if count else None for count in counts],
        }

    @classmethod
    def identity(cls, settings: PerplexitySettings) -> dict[str, Any]:
        """Of any model of transformers."""
        return transformers_identity(settings, embedded="language_model")
