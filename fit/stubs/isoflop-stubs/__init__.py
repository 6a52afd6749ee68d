"""Types of the module `isoflop`, since checkers take none from a single module (PEP 561)."""
