"""Which parameters are trained."""

import pytest

from semdiff.config import ConfigError
from semdiff.training.params import Rule, merged, paths

TREE = {"a": {"kernel": 1, "bias": 2}, "ab": {"kernel": 3}, "space": {"turn": 4}}


@pytest.mark.parametrize(
    ("rule", "trained"),
    [
        (Rule(), ["a/kernel", "a/bias", "ab/kernel", "space/turn"]),
        (Rule(frozen=("space",)), ["a/kernel", "a/bias", "ab/kernel"]),
        (Rule(frozen=("a",)), ["ab/kernel", "space/turn"]),  # a name, not how one begins
        (Rule(("*/kernel",)), ["a/kernel", "ab/kernel"]),
        (Rule(("*",), frozen=("a", "space")), ["ab/kernel"]),
    ],
)
def test_a_rule_splits_a_tree_and_nothing_is_lost(rule, trained):
    rule.check(TREE)
    mine, rest = rule.split(TREE)
    assert paths(mine) == trained
    assert sorted(paths(mine) + paths(rest)) == sorted(paths(TREE))
    assert merged(mine, rest) == TREE


def test_patterns_that_fit_nothing_are_said():
    with pytest.raises(
        ConfigError, match=r"has 'b/\*', which fits no parameter; they begin with a, ab, space"
    ):
        Rule(("b/*",)).check(TREE)
