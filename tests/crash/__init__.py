"""Crashes at chosen moments, through the real stack; the random ones are in ``tests/chaos``."""
