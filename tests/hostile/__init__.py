"""Hostile workflows: what they try is here, what must become of it is asserted in tests/test_hostile.py."""
