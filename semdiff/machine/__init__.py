"""What knows of devices, processes, compilers, folders and terminals.

Nothing here knows what is computed: no layouts, no networks, no methods.
"""
