"""Laws of scores: what a skill's accuracy is at a size, a length or a budget, with intervals.

`sigmoid` fits one curve to one score; `law` chooses what the curve is a function of by forecasts
of the costlier runs, and answers.
"""
