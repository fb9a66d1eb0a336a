"""`python -m mada_lab` is the command `mada-lab`."""

from mada_lab.cli import main

main()
