"""Every public name and signature is written down, so that a change of one is a decision."""

from tests.public_api import PATH, written


def test_names_and_signatures_are_as_decided():
    """`python -m tests.public_api --write` writes the text anew; say in CHANGELOG.md what changed and why."""
    assert written() == PATH.read_text()
