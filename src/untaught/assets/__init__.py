"""Models and data from elsewhere: fetched by name, checked by digest, kept with where they came from."""

from .references import PREFIX, path, whole

__all__ = ["PREFIX", "path", "whole"]
