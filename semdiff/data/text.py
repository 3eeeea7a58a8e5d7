"""Words: a vocabulary of captions, and sources whose captions are ids of words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from semdiff.data.source import Example, Info, Source

PAD, UNKNOWN = 0, 1
SPECIAL = ("", "?")  # what stands at these ids
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]")


def words_of(caption: str) -> list[str]:
    """Words in small letters, and marks."""
    return _WORD.findall(caption.lower())


def captions_of(example: Example) -> tuple[str, ...]:
    """All captions of an example; one, several or none."""
    caption = example.get("caption", ())
    return (caption,) if isinstance(caption, str) else tuple(caption)


PLURALS = {"person": "people", "man": "men", "woman": "women", "child": "children"}


def named_classes(caption: str, names: Sequence[str]) -> list[int]:
    """The classes whose names, in one or in many, stand in a caption."""
    text = f" {' '.join(words_of(caption))} "
    found = []
    for i, name in enumerate(names):
        name = " ".join(words_of(name))
        forms = (name, f"{name}s", f"{name}es", PLURALS.get(name, name))
        if any(f" {form} " in text for form in forms):
            found.append(i)
    return found


@dataclass(frozen=True)
class Vocabulary:
    """Words by id: padding, the unknown, then the most frequent first."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, captions: Iterable[str], most: int = 10_000) -> Vocabulary:
        counts = Counter(word for caption in captions for word in words_of(caption))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls((*SPECIAL, *ranked[: most - len(SPECIAL)]))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, caption: str, length: int) -> np.ndarray:
        """int32 [length], cut or padded."""
        ids = {word: i for i, word in enumerate(self.words)}
        found = [ids.get(word, UNKNOWN) for word in words_of(caption)][:length]
        return np.array(found + [PAD] * (length - len(found)), np.int32)

    def unknown(self, caption: str) -> list[str]:
        """Its words that are not known."""
        known = set(self.words)
        return [word for word in words_of(caption) if word not in known]


class Told:
    """A source whose examples have "texts", int32 [n, length]: their captions in ids of words, one row at least.

    An example without a caption has a row of padding. share: captions are told of only so many of the examples, chosen
    once by their numbers; the others have none.
    """

    def __init__(self, source: Source, vocabulary: Vocabulary, length: int, share: float = 1.0):
        self.source, self.vocabulary, self.length, self.share = source, vocabulary, length, share
        self.info: Info = source.info

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        captions: Sequence[str] = captions_of(example) if self.is_told(index) else ()
        rows = [self.vocabulary.encode(caption, self.length) for caption in captions]
        return {**example, "texts": np.stack(rows or [np.zeros(self.length, np.int32)])}

    def is_told(self, index: int) -> bool:
        """A share of the numbers, spread evenly and always the same."""
        return int((index + 1) * self.share) > int(index * self.share)
