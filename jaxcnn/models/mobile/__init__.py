"""Networks of inverted residual blocks for mobile phones, and their successors; each file implements one paper."""
