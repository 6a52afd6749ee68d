"""Forecasts of single runs: sealed in a ledger before the run, scored after it.

`ledger` stores forecasts and outcomes on disk; `scoring` finds the run of each forecast and
measures how well the forecasts are calibrated.
"""
