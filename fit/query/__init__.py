"""From a Question to an Answer: limits, worth, warnings, what launches it."""
