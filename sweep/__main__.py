"""`python -m sweep`."""

from sweep.app import main

main()
