"""A run checked, and made again: what its record must be, whether it is true, and the verdict."""
