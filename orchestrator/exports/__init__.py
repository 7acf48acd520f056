"""`mirage export`: a run in the words of other tools. Each format is one module, and keeps nothing to itself."""
