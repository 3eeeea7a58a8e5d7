"""Parameters as nested dicts, and which of them are trained."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from semdiff.config import Autoencoding, ConfigError, Experiment
from semdiff.methods.method import SPACE
from semdiff.methods.space import DEVIATION, MEAN

Tree = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """Which parameters are trained: those with a path, a/b/c, that one of `trained` fits (none: all), but for `frozen`.

    In a pattern * stands for anything, slashes too: decoder_*, */attention/*.
    """

    trained: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()

    def trains(self, path: str) -> bool:
        if any(path == name or path.startswith(f"{name}/") for name in self.frozen):
            return False
        return not self.trained or any(fnmatchcase(path, pattern) for pattern in self.trained)

    def split(self, tree: Tree) -> tuple[Tree, Tree]:
        """(trained, frozen)."""
        return select(tree, self.trains), select(tree, lambda path: not self.trains(path))

    def check(self, tree: Tree):
        """An error for a pattern that fits no parameter."""
        known = paths(tree)
        for pattern in self.trained:
            if not any(fnmatchcase(path, pattern) for path in known):
                raise ConfigError(
                    f"config.train.trained has {pattern!r}, which fits no parameter; they begin with "
                    f"{', '.join(sorted(tree))}. * stands for anything: decoder_*, */attention/*"
                )
        if not any(map(self.trains, known)):
            raise ConfigError(f"config.train.trained is {self.trained}, which leaves nothing to train")


def rule_of(config: Experiment) -> Rule:
    """What a configuration trains. Never a space, nor prompts that were given."""
    if isinstance(config.model, Autoencoding):
        return Rule(config.train.trained, (MEAN, DEVIATION))
    return Rule(config.train.trained, (SPACE, "prompts") if config.data.prompts else (SPACE,))


def select(tree: Tree, wanted, above: str = "") -> Tree:
    """The part of a tree whose paths are wanted."""
    chosen = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            if below := select(value, wanted, f"{above}{name}/"):
                chosen[name] = below
        elif wanted(f"{above}{name}"):
            chosen[name] = value
    return chosen


def merged(tree: Tree, other: Tree) -> Tree:
    """One tree of two that share no leaf."""
    both = tree.keys() & other.keys()
    return {**tree, **other, **{name: merged(tree[name], other[name]) for name in both}}


def overlaid(tree: Tree, given: Tree) -> Tree:
    """`tree`, but for the leaves that are given."""
    whole = dict(tree)
    for name, value in given.items():
        whole[name] = overlaid(tree[name], value) if isinstance(value, dict) else value
    return whole


def paths(tree: Tree, above: str = "") -> list[str]:
    found: list[str] = []
    for name, value in tree.items():
        found += paths(value, f"{above}{name}/") if isinstance(value, dict) else [f"{above}{name}"]
    return found
