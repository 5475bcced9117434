"""The whole way from a source and references to a segmenter for the site, as one command."""
