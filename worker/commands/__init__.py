"""What the command line does: a module for each part of it that is more than arguments."""
