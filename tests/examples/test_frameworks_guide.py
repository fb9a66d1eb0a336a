"""The code in the guide to frameworks is part of what the tests run.

Catches: code in the guide that has never run.
"""

import re
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide" / "frameworks.md"
TESTED = [*sorted((ROOT / "examples").glob("*.py")), ROOT / "tests" / "distributed" / "test_accelerate.py"]


def test_the_code_of_the_guide_is_part_of_a_tested_program():
    snippets = re.findall(r"^```py\n(.*?)^```", GUIDE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(snippets) > 5
    programs = [path.read_text().splitlines() for path in TESTED]
    assert [x for x in snippets if not any(has(lines, x.splitlines()) for lines in programs)] == []


def has(lines, snippet):
    """Whether `snippet` is among the lines of a program, at any indentation."""
    windows = (lines[i : i + len(snippet)] for i in range(len(lines) - len(snippet) + 1))
    return any(dedent("\n".join(window)).splitlines() == snippet for window in windows)
