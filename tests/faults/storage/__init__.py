"""Storage that fails: calls of the C library that fail by plan, small disks, and what comes of the run."""
