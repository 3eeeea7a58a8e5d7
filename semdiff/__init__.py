"""semdiff. Importing it, before anything is computed, chooses how XLA compiles for CPUs."""

from semdiff.machine import compiler_flags

compiler_flags.choose()


def load(path, **settings):
    """A trained model, of a model folder or a workdir: see `semdiff.api.load`."""
    from semdiff import api  # what reads data or flags alone need not wait for jax

    return api.load(path, **settings)
