"""Measurements: what the runtime costs beside the published procedure."""
