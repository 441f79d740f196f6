"""The corpus and the training of the model that ships with the project."""
