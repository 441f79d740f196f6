"""How long encoding and decoding take, and how much memory."""
