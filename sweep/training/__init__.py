"""Training: from a planned trajectory to run records.

`loop` trains what is missing of a trajectory. A `session` holds one model in training and takes its
optimiser steps by `step`. `checkpoint` saves states, `devices` covers hardware and several devices,
`outcome` measures a model and makes its record, `tracking` reports progress, and `timing` measures
step times for plans.
"""
