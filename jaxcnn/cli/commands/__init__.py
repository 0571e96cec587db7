"""The commands of `jaxcnn`: one module per command, with a function `run(args)` that may return an exit status."""
