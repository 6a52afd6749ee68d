"""Runs as records on disk and as the table a law is fitted to. Knows no law."""
