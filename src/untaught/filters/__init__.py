"""Shelf: texts or examples in, findings out. One file a component; the file is its name."""
