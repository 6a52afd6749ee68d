"""From a command's overrides to what will be trained and what it costs; never imports torch.

`compose` composes configurations with Hydra, `trajectory` derives runs from one of them, and `grid`
does both for every cell of a sweep; `timing` and `bill` estimate costs, `thinning` drops runs.
"""
