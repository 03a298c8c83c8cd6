"""Digests of weights, data and settings."""
