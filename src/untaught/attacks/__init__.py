"""Shelf: what a downloader does to the weights. One file a component; the file is its name."""
