"""From a `Question` to an `Answer`: the best model of a budget or for a loss, within limits.

`question` holds the fields of a question and the documents of an answer, `answer` computes it,
`budget` converts money and time to FLOP, `constraints` finds optima within limits, `sensitivity`
refuses conflicting limits and prices the binding ones, `warnings` states doubts, `launch` decides
whether and how an answer is trained, `exports` writes it for other trainers.
"""
