"""The statistician: tables of runs, laws, fits with intervals, answers, reports, the service.

Needs numpy, scipy, pandas and click, never torch. The packages, each importing only what stands
before it:
data, laws, estimation, inference, diagnostics, allocation, query, design, comparison, forecasts,
report,
service, cli. The Python interface is the module `isoflop`.
"""
