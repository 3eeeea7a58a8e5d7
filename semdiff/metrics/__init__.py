"""How good images are: distances, confusion matrices, and the networks that these need.

Arrays in, numbers out; where images come from is not known here.
"""
