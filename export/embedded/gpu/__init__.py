"""Training on a GPU that is lent for minutes, on a machine where nothing can be fetched."""
