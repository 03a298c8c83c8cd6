"""untaught: make open-weight language models safe in the weights themselves, and measure how long that lasts.

Nothing heavy is imported here.
"""

__version__ = "0.1.0"
