"""Training runs: records on disk, tables of other people's runs, and parameter and FLOP counts.

`readers.load` reads a folder of `records` or a table into the `RunTable` of `table`, which every
fit takes. `trackers` converts exports of experiment trackers, and `accounting` counts parameters
and FLOPs. No module here depends on a scaling law.
"""
