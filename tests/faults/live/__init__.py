"""Campaigns of faults of running processes: kills, other numbers of devices, hangs, and all of them at random."""
