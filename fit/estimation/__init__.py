"""The point fit: takes a RunTable and a Law, returns an Estimate.

Losses and their derivatives (`objective`), any declared law as a problem for the solver
(`general`), and the solver (`solver`).
"""
