"""The pure step of training and the state it works on, which of the weights are trained, and how a state is kept on disk.

The loop itself is modes/train.py; what a loss is, a method says.
"""
