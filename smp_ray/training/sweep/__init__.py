"""The search for a predictor's hyperparameters with Ray Tune."""
