"""Forecasts sealed before a run, scored after it."""
