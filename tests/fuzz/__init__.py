"""Fuzzers of our own: `files` mutates every kind of file that a reader takes. Each prints the seed of what it finds."""
