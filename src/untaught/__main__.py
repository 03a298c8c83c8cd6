"""`python -m untaught` is `untaught`."""

from .cli import main

main()
