"""`python -m sweep`."""

from __future__ import annotations

from sweep.app import main

main()
