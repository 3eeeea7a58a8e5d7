"""The mathematics: processes, schedules, losses, guidance, samplers, as pure functions of arrays, with equations by number.

No networks, no files, no configuration: jax, numpy and jaxtyping alone.
"""
