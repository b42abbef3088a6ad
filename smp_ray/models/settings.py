"""What each kind of model needs of its settings; the sections of the configuration fit these."""

from typing import Protocol


class ModelSettings(Protocol):
    """What every model needs to know."""

    @property
    def model(self) -> str:
        """'embedded', a folder, or a name on the hub."""

    @property
    def revision(self) -> str | None:
        """Commit, branch or tag of a hub repository; None for its main branch."""

    @property
    def dtype(self) -> str:
        """'auto', 'float32', 'float16' or 'bfloat16'."""

    @property
    def batch_size(self) -> int:
        """Items of one forward pass at most."""


class CaptionerSettings(ModelSettings, Protocol):
    """An image-to-text model of transformers."""

    @property
    def prompt(self) -> str | None:
        """Instruction, for models that take one."""

    @property
    def max_new_tokens(self) -> int:
        """Tokens that a caption may have."""

    @property
    def num_beams(self) -> int:
        """Beams of the search; 1 for greedy decoding."""


class ClipSettings(ModelSettings, Protocol):
    """An open_clip model; `clip_source` says how `model`, `pretrained` and `revision` are read."""

    @property
    def pretrained(self) -> str | None:
        """A tag of open_clip or a weights file, for a built-in name."""


class LanguageModelSettings(ModelSettings, Protocol):
    """A causal language model of transformers."""

    @property
    def gguf_file(self) -> str | None:
        """Name of a GGUF file inside the model folder."""

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that are scored; the rest is cut."""
