"""Segmenters: the one of the source that ships in the bundle, and those trained with pairs."""
