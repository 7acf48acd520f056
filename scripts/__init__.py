"""Scripts that prepare a machine before anything of the project is installed: standard library only."""
