"""The machines: load, save, batch, hook, score, and the one training loop."""
