"""Data sources: where the tokens of training and of the held-out sample come from.

`registry` lists the sources and opens one by name; `rows` defines their interface. `stories`
generates its text with a `language` of known entropy; `text` reads files and Hugging Face data sets
and tokenises them by `corpus`; `shards` maps tokens that another program wrote.
"""
