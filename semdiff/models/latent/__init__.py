"""Networks of latent diffusion: an autoencoder, a UNet that is told of words, a ControlNet that is given a layout.

Those of Stable Diffusion at its sizes, and smaller ones of the same kind.
"""
