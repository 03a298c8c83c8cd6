"""Worlds of invented facts, and the tiny models that learn them."""
