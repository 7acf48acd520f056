"""The store: opened by URI, one file per backend."""
