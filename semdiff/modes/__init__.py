"""What a user can ask for, a file each: a function of a configuration, or of a trained model, and a workdir.

They join all other wings; nothing but main.py and api.py imports them, and they do not import each other.
"""
