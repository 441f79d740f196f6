"""Bundles: folders of graphs, codebooks and a manifest.

`manifest` is the file, `store` the folder, `locate` finds one.
"""
