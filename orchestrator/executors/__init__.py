"""Executors: what places a container somewhere and follows it, and the engine adapter beneath."""
