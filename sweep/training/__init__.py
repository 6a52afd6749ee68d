"""Training: from a planned trajectory to run records.

`loop` trains what is missing of one or several trajectories. A `session` holds one model in
training and takes its optimiser steps by `step`; an `ensemble` computes those of several models at
once. `checkpoint` saves states, `devices` covers hardware and several devices, `outcome` measures a
model and makes its record, `tracking` reports progress, and `timing` measures step times for plans.
"""
