"""Measurements of speed, memory and quality, beside the published procedures. `README.md` lists the commands."""
