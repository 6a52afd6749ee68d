"""Scaling laws: their declaration, the families to fit, and published ones. Numpy only.

`law` says what a law is, `families` holds those that can be fitted, `published` the catalogue.
"""
