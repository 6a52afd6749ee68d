"""Tests."""

import os
import sys

# As in the Makefile, for the processes that tests start too: one thread each, since two processes
# of one thread beat one of two, and compiled modules are kept, or every process compiles all anew.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
