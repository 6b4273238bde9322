"""Running the library: command line, stack, config validation, tracking, registries. No training, no
statistics."""
