"""Fast forms of the equations that layers state, behind one door."""
