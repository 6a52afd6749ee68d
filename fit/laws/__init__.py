"""What a law is, the families, and published values. Pure numpy."""
