"""Whether to believe a fit. Every check returns Notes or a typed result; none changes the fit."""
