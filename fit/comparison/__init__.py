"""Two laws against each other."""
