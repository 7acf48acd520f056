"""Measurements against named floors; each module says what it measures, and prints a ratio."""
