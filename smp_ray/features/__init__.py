"""The Ray Data pass: posts in, feature families out."""
