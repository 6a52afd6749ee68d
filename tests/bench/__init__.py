"""Benchmarks: speed and memory as ratios and medians, interleaved in one run; never in tests."""
