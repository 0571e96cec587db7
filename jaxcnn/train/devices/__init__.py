"""How a step is distributed over devices, processes and machines."""
