"""Choice of the next training runs, so that a law's answer becomes as precise as a spend allows.

`suggest.propose` answers a request of `candidates`, by the search of `criterion`; `plan_files`
writes the proposal as files that a sweep launches.
"""
