"""Sweeps of small transformers: every run leaves one honest record."""
