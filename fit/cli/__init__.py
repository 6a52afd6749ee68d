"""The command `isoflop`: parse arguments, call the library, print.

`main` has the commands, `options` their options, and `runs` the texts about runs and sweeps.
"""
