"""`run report`: what is known of a set of pairs, in one HTML file."""
