"""Distribute training steps over devices, processes and machines."""
