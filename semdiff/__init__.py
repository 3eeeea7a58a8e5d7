"""semdiff. Importing it, before anything is computed, chooses how XLA compiles for CPUs."""

from semdiff import compiler_flags

compiler_flags.choose()
