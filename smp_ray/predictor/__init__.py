"""The fitted whole: from wide rows of posts to their popularity, saved, loaded and asked about posts never seen."""
