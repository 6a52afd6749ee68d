"""How sure: covariance, bootstrap, profile, and intervals of any function of theta."""
