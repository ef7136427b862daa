"""Benchmarks of gradtrace; see README.md here."""
