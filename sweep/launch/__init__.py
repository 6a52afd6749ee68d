"""Hands cells to Hydra's launchers and takes back what they lost."""
