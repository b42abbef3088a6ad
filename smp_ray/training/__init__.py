"""From stored features to a predictor: splits, adapters, LightGBM, and how well they do."""
