"""Lock files: which one a project has, and what it pins."""
