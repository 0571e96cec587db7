"""Networks that were designed for accuracy per multiply-add or per parameter, after the first deep networks."""
