"""Training the cells of a grid, in this process or through one of Hydra's launchers.

`launcher` hands jobs to a launcher and launches again what it lost; `jobs` says which cells share a
job and what a worker process does with it.
"""
