"""From a configuration to what will be run and what it costs. Never imports torch."""
