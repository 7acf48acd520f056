"""Artifacts: trees, versions, inputs laid out for a run, outputs collected from it."""
