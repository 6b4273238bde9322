"""Pipelines: which steps run, in what order, with which wiring. No logic, no I/O, no numbers."""
