"""A law with parameters, asked: best split of a budget, frontier, costs. Unconstrained."""
