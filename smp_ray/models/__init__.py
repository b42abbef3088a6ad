"""The models, in plain torch: images, captions, CLIP embeddings, perplexity, adapters. No Ray in here."""
