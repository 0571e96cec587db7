"""Networks of inverted residual blocks, made for phones, and what followed from them. One paper a file."""
