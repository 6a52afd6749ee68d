"""Configuration groups of the sweep, as yaml; `sweep/config.py` holds their types and rules."""
