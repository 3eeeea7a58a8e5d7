"""Where a chain starts.

A start has draw(process, like, condition, keys) -> the state at the first time of the chain.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from semdiff.diffusion import joint
from semdiff.diffusion.joint import Keys, Process, State


class Start(Protocol):
    def draw(self, process: Process, like: State, condition: Any, keys: Keys) -> State: ...


@dataclass(frozen=True)
class Standard:
    """At the top, from the process's own prior."""

    def draw(self, process: Process, like: State, condition: Any, keys: Keys) -> State:
        return joint.sample_prior(process, like, keys)


STANDARD = Standard()
