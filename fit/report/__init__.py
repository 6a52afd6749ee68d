"""Results as reports (PDF or HTML) and as text for the terminal; nothing is computed here.

`render.write_report` writes a report from `fit.json`: `figures` draws what its registry lists, with
the plots of `plots`, `check_plots` and `context_plots`, and `figure_data` writes their data as CSV;
`summary_page` gathers page 1 and, from `sections` and `tables`, the rest; typst or HTML sets it.
`text` and `listings` are the output of the commands on 80 columns.
"""
