"""Programs that run in the validators' own environment (tests/validator_tools.py makes it), and what they need."""
