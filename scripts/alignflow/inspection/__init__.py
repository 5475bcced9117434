"""What a data set is like, before anything runs on it."""
