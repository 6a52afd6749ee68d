"""Uncertainty of an estimate, and intervals of any function of the parameters.

Covariance and bootstrap (`resampling`), a test of misfit (`misspecification`), and intervals
(`intervals`, `profile`).
"""
