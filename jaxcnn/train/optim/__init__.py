"""How gradients become parameter updates: optimizers, schedules, freezing, loss scaling, moving averages."""
