"""Every view of a result: terminal, tables, figures, PDF, HTML. Computes nothing."""
