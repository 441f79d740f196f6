"""The synthetic corpus that the embedded model is trained on: speech, music and other sound."""
