"""Where deliveries come from: to add a trigger, add a module here and a line in ``worker.app``."""
