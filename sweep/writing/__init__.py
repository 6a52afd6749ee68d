"""What trained models write: kept weights, generated text, and export to other formats.

`weights` saves and loads the weights beside a run's record, `generate` continues prompts with a
cache of keys and values, and `export` writes a folder that `transformers` loads.
"""
