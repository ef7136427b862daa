"""Fuzzers of our own: `files` mutates what readers take, `api` what calls take; each gives the seed of a finding."""
