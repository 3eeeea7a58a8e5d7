"""Networks, as flax modules: arrays in, arrays out.

They know neither the process that they denoise nor the data.
"""
