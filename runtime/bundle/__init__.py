"""Bundles: folders of graphs, codebooks and a manifest.

`manifest` reads the manifest, `store` checks and reads the files, `locate` finds a bundle.
"""
