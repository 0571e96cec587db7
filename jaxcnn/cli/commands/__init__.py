"""One module for each command, with a function `run(args)` that may return an exit status."""
