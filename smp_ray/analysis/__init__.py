"""What the report shows, as numbers: pure functions on pandas and numpy, without Ray, files or figures."""
