"""Shelf: subject and corpus in, trained subject out. One file a component; the file is its name."""
