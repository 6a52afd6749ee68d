"""Comparison of two scaling laws by the compute that each needs for the same loss.

`compare` checks that the two can be compared and gives the multiplier; `multiplier` gives its
intervals, with the noise that paired runs share taken out.
"""
