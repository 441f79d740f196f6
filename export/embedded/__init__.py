"""The model that ships with the project: its data, made here, and its training."""
