"""Shelf: subject and items in, marks out. One file a component; the file is its name."""
