"""How near the decoded sound is to the original."""
