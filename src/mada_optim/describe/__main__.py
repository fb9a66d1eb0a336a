"""Prints the pages of rules, or writes the pages of all rules into a folder."""

import argparse
from pathlib import Path

from mada_optim.describe import describe
from mada_optim.describe.pages import page, write
from mada_optim.rules import RULES


def main(arguments: list[str] | None = None) -> None:
    """The command `python -m mada_optim.describe`."""
    parser = argparse.ArgumentParser("python -m mada_optim.describe", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"a rule: {', '.join(RULES)}")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the pages of all rules and an index")
    options = parser.parse_args(arguments)
    if not options.names and options.write is None:
        parser.error("name a rule, or a folder to write all pages to: --write docs/reference/rules")
    try:
        pages = [page(describe(name)) for name in options.names]
    except ValueError as error:
        parser.error(str(error))
    print("\n".join(pages), end="")
    if options.write is not None:
        print(*write(options.write), sep="\n")


if __name__ == "__main__":
    main()
