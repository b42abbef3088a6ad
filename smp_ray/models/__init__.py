"""The models, in plain torch: decode, captioner, CLIP, perplexity, and what identifies each. No Ray in here."""
