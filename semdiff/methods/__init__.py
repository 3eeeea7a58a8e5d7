"""What a paper is made of, a file for each paper, and build.py, which chooses between them.

A method gives pure functions of weights, states and keys: no files, no devices, no loops.
"""
