"""Point fit: objective and solver. Takes a RunTable and a Law, returns an Estimate."""
