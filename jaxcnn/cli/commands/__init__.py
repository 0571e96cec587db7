"""One module a command; each has run(args), which may return an exit status."""
