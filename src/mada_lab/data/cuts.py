"""Splits of text into training and validation text, for sources that have only one of them."""

from collections.abc import Callable
from fractions import Fraction

from mada_lab.data.sources import Stream, Texts
from mada_lab.errors import DataError

Cut = Callable[[Texts], Stream]


def as_given(texts: Texts) -> Stream:
    """The splits of the source."""
    return texts.read()


def last(share: Fraction) -> Cut:
    """Makes the last `share` of each text's characters validate, unless the source has both splits.

    Each text is taken into memory, to know its length.
    """

    def cut(texts: Texts) -> Stream:
        for split, parts in texts.read():
            if split == "test" or {"train", "val"} <= set(texts.splits):
                yield split, parts
                continue
            text = "".join(parts)
            end = int(len(text) * (1 - share))
            if not 0 < end < len(text):
                what = f"expected enough characters for training and validation text, got {len(text)}"
                raise DataError(f"text, in {texts.origin}: {what}; use a longer text")
            yield "train", [text[:end]]
            yield "val", [text[end:]]

    return cut


last_tenth = last(Fraction(1, 10))


def every(n: int) -> Cut:
    """Makes every `n`th document validate, unless the source has a validation split."""

    def cut(texts: Texts) -> Stream:
        for number, (split, document) in enumerate(texts.read(), 1):
            turn = split == "train" and "val" not in texts.splits and number % n == 0
            yield "val" if turn else split, document

    return cut


def splits(cut: Cut, texts: Texts) -> set[str]:
    """Names of the splits that `cut` makes."""
    found = set(texts.splits)
    return found | {"train", "val"} if cut is not as_given and found != {"test"} else found
