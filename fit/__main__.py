"""`python -m fit` is the command `isoflop`."""

from fit.cli import main

main(prog_name="isoflop")
