"""Networks designed for high accuracy per multiply-add or per parameter."""
