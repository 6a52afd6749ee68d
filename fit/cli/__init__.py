"""The command isoflop: parse, call, print."""
