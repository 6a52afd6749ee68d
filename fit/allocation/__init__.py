"""The best split of a compute budget, the law that splits it, and what compute costs.

`scaling_law` is a fit or a published law that answers questions, `ladder` the shapes behind a fit
and the FLOP of a token on them, `allocate` the split of a budget and the two searches behind every
optimum, `costs` devices, money, serving and the compute of the next step. `fit.query` adds limits.
"""
