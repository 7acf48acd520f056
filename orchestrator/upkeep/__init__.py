"""Upkeep of a store and of this machine: what can go, what is damaged."""
