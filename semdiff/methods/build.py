"""From a configuration to what is trained: the method of a paper, or a space for one, and the data that it is built for."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semdiff import inputs
from semdiff.config import Autoencoding as AutoencodingSettings
from semdiff.config import ConfigError, ControlUNet, Experiment, JointUNet, Latents
from semdiff.data.source import Info, Source
from semdiff.data.text import Vocabulary
from semdiff.methods import autoencoding, gcdp, scp, sdm
from semdiff.methods.autoencoding import Autoencoding
from semdiff.methods.method import Method

NO_METHOD = (
    "config.model.kind is autoencoder, which makes no images by itself. Name its workdir in config.space.weights of a "
    "configuration whose network noises its latents"
)


def build(
    config: Experiment, info: Info, rates: np.ndarray | None = None, words: int = 0
) -> Method | Autoencoding:
    """What a configuration trains: a method, or the autoencoder of a space."""
    if isinstance(config.model, AutoencodingSettings):
        return autoencoding.method(config)
    return build_method(config, info, rates, words)


def build_method(config: Experiment, info: Info, rates: np.ndarray | None = None, words: int = 0) -> Method:
    """The method that a configuration spells, for a data set with these classes, and, where asked for, class rates and a
    vocabulary of so many words."""
    if isinstance(config.model, AutoencodingSettings):
        raise ConfigError(NO_METHOD)
    if isinstance(config.model, ControlUNet):
        return scp.method(config, info, rates)
    if isinstance(config.space, Latents):
        raise ConfigError(
            f"config.space.kind is latents, where config.model.kind {config.model.kind} does not work: choose control_unet, "
            "or pixels"
        )
    if isinstance(config.model, JointUNet):
        return gcdp.method(config, info, rates, words)
    return sdm.method(config, info, rates)


def paper_of(config: Experiment) -> tuple[str, str]:
    """Name and number of the paper that a configuration follows."""
    if isinstance(config.model, AutoencodingSettings):
        return autoencoding.PAPER
    if isinstance(config.model, ControlUNet):
        return scp.PAPER
    if isinstance(config.model, JointUNet):
        return gcdp.PAPER
    return sdm.PAPER if config.layout.transition == "none" else sdm.PAPER_SCDM


@dataclass(frozen=True)
class Opened:
    """A configuration with its data: the training split, its class rates and language where asked for, what is trained."""

    source: Source
    rates: np.ndarray | None
    language: inputs.Language | None
    subject: Method | Autoencoding

    @property
    def method(self) -> Method:
        if isinstance(self.subject, Autoencoding):
            raise ConfigError(NO_METHOD)
        return self.subject

    @property
    def info(self) -> Info:
        return self.source.info

    @property
    def identity(self) -> dict:
        """What of the data the weights depend on."""
        return inputs.identity(self.info, "edges" in self.subject.reads, self.rates, self.language)


def opened(config: Experiment, workdir: Path, encoded: bool = True) -> Opened:
    """Opens the training data; class rates that are measured are kept in the workdir. encoded: with the images' latents,
    where config.data.latents has them."""
    source = inputs.training_source(config.data, config.seed)
    rates = inputs.class_rates(config, source, workdir)
    language = inputs.language(config, source, workdir)
    subject = build(config, source.info, rates, words_of(language))
    source = inputs.told(config, source, language, training=True)
    return Opened(inputs.encoded(config, source) if encoded else source, rates, language, subject)


def words_of(language: inputs.Language | None) -> int:
    """How many a network embeds itself."""
    return len(language) if isinstance(language, Vocabulary) else 0
