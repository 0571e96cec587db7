"""Tasks beside classification: each file is a complete example, which `docs/` explains."""
