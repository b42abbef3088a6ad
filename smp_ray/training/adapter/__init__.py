"""CLIP-adapters, cross-fitted over the folds with Ray Train."""
