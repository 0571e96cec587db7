"""How a gradient becomes an update: optimizers, schedules, freezing, loss scaling, averages."""
