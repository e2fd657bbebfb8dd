"""``python -m ivr`` is ``firmline``."""

from ivr.cli import main

main()
