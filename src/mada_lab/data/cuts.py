"""Training and validation text where the source has only one of them."""

from collections.abc import Callable

from mada_lab.data.sources import Stream, Texts
from mada_lab.errors import DataError

Cut = Callable[[Texts], Stream]


def as_given(texts: Texts) -> Stream:
    """The splits of the source."""
    return texts.read()


def last_tenth(texts: Texts) -> Stream:
    """A text's first 90 % of characters train, the rest validates, unless the source has both splits.

    Each text is taken into memory, to know its length.
    """
    for split, parts in texts.read():
        if split == "test" or {"train", "val"} <= set(texts.splits):
            yield split, parts
            continue
        text = "".join(parts)
        if len(text) < 2:
            raise DataError(
                f"text, in {texts.origin}: expected 2 characters or more, got {len(text)}; use a longer text"
            )
        cut = len(text) * 9 // 10  # in integers: exact at any length
        yield "train", [text[:cut]]
        yield "val", [text[cut:]]


def every(n: int) -> Cut:
    """Every `n`th document validates, unless the source has a validation split."""

    def cut(texts: Texts) -> Stream:
        for number, (split, document) in enumerate(texts.read(), 1):
            turn = split == "train" and "val" not in texts.splits and number % n == 0
            yield "val" if turn else split, document

    return cut


def splits(cut: Cut, texts: Texts) -> set[str]:
    """Names of the splits that `cut` makes."""
    found = set(texts.splits)
    return found | {"train", "val"} if cut is not as_given and found != {"test"} else found
