"""Published accuracies, and those that the recipes in `experiments/recipes` reach when they are run to their end."""
