"""Mirage's host side: from a commit, a lock and a config to an image, a run and its record."""

__version__ = "0.1.0"
