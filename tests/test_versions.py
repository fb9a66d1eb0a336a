"""The library's tests on several versions of torch: which they are, and the table of the results.

Catches: a test of the library that can't run without the application, a row that is lost or doubled, a page that
promises another version than the package declares.
"""

from tests import versions

ROW = ("2.6.0+cu124", "3.11.7", 10, 0, 2, "1234567", "2026-01-02")
FOLDERS = "contract engine gradient numerics oracles_gdtuo torch_checks"


def test_tests_of_the_library_run_without_the_application():
    written = {path for folder in FOLDERS.split() for path in (versions.ROOT / "tests" / folder).rglob("test_*.py")}
    assert written
    assert written - {*versions.suite()} == set()


def test_tests_of_the_application_are_left_out():
    assert not [path for path in versions.suite() if versions.ROOT / "tests" / "app" in path.parents]


def test_a_new_result_takes_the_place_of_the_one_with_its_versions():
    empty = "head\n" + versions.BEGIN + "\n".join(versions.HEAD) + "\n" + versions.END + "foot\n"
    old, other = (ROW[0], ROW[1], 5, 5, 2, "0000000", "2026-01-01"), ("2.15.0", *ROW[1:])
    page = versions.merged(versions.merged(empty, [other, old]), [ROW])
    assert page.splitlines() == [
        "head",
        versions.BEGIN.strip(),
        *versions.HEAD,
        "| 2.6.0+cu124 | 3.11.7 | 10 | 0 | 2 | 1234567 | 2026-01-02 |",
        "| 2.15.0 | 3.11.7 | 10 | 0 | 2 | 1234567 | 2026-01-02 |",
        versions.END.strip(),
        "foot",
    ]


def test_the_page_promises_what_is_declared():
    assert f"torch {versions.declared()} or newer" in versions.PAGE.read_text()
