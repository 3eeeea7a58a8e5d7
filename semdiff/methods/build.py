"""From a configuration to a method: which paper it is, and the data that it is built for."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semdiff import inputs
from semdiff.config import Experiment, JointUNet
from semdiff.data.source import Info, Source
from semdiff.data.text import Vocabulary
from semdiff.methods import gcdp, sdm
from semdiff.methods.method import Method


def build_method(config: Experiment, info: Info, rates: np.ndarray | None = None, words: int = 0) -> Method:
    """The method that a configuration spells, for a data set with these classes, and, where asked for, class rates and a
    vocabulary of so many words."""
    if isinstance(config.model, JointUNet):
        return gcdp.method(config, info, rates, words)
    return sdm.method(config, info, rates)


def paper_of(config: Experiment) -> tuple[str, str]:
    """Name and number of the paper that a configuration follows."""
    if isinstance(config.model, JointUNet):
        return gcdp.PAPER
    return sdm.PAPER if config.layout.transition == "none" else sdm.PAPER_SCDM


@dataclass(frozen=True)
class Opened:
    """A configuration with its data: the training split, its class rates and words where asked for, the method."""

    source: Source
    rates: np.ndarray | None
    vocabulary: Vocabulary | None
    method: Method

    @property
    def info(self) -> Info:
        return self.source.info

    @property
    def identity(self) -> dict:
        """What of the data the weights depend on."""
        return inputs.identity(self.info, "edges" in self.method.given.reads, self.rates, self.vocabulary)


def opened(config: Experiment, workdir: Path) -> Opened:
    """Opens the training data; class rates that are measured are kept in the workdir."""
    source = inputs.training_source(config.data, config.seed)
    rates, vocabulary = (
        inputs.class_rates(config, source, workdir),
        inputs.vocabulary(config, source, workdir),
    )
    method = build_method(config, source.info, rates, len(vocabulary or ()))
    return Opened(inputs.told(config, source, vocabulary, training=True), rates, vocabulary, method)
