"""The built-in sample world: synthetic posts, and small models of the real architectures that can read them.

Everything here is synthetic. The world follows the published layout and label distribution of SMPD-Image and plants
the paper's two claims; a figure measured on it says something about this software, never about social media.
Whatever shows such a figure must show `SYNTHETIC_NOTICE` with it.
"""

from pathlib import Path

SYNTHETIC_NOTICE = "Synthetic sample world: generated posts, not real ones. Figures test the software only."

MODELS = Path(__file__).resolve().parent / "models"
"""Folder of the shipped small models: `captioner` (BLIP), `embedder` (open_clip) and `language_model` (GPT-2)."""
