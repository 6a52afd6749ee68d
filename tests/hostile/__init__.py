"""Hostile inputs at every door, each with its right outcome: a value, or a refusal in words."""
