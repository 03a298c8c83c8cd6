"""Shelf: subject and corpus in, subject that knows less out. One file a component; the file is its name."""
