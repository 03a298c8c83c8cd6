"""Tables, curves and the page, drawn from records alone."""

from .page import redraw
from .reading import Run, read
from .terminal import summary
from .verdicts import Account, Standing, account

__all__ = ["Account", "Run", "Standing", "account", "read", "redraw", "summary"]
