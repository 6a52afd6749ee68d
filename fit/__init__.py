"""Scaling-law fits: any table of runs in, an answer that can be trusted out."""
