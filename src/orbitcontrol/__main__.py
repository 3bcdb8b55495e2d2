"""``python -m orbitcontrol`` is ``orbitctl``."""

from orbitcontrol.cli import main

main()
