"""Where outcomes go: to add an output, add a module here and a line in ``worker.app``."""
