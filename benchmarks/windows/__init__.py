"""What a detection window costs and what it gets wrong: a model, plots of it, and a real path to check it."""
