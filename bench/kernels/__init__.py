"""The centroid search and the BiLSTM, by themselves."""
