"""From posts and stored features to the columns that a predictor sees."""
