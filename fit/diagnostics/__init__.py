"""Checks of a fit; each returns notes or a typed result, and none changes the fit.

Notes on the runs and residuals (`notes`, `residuals`), refits (`robustness`), cross-checks by
approaches 1 and 2 (`approaches`), scans of the learning rate and other recipe numbers (`scans`),
and the law of their best values (`tuning`).
"""
