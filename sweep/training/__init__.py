"""From a trajectory to run records."""
