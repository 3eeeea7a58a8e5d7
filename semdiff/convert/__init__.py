"""Weights of ours and of other people in files, and the tables of names between them.

Nothing in a file is executed; no network is run here and none is imported.
"""
