"""Images: base, environment, SDK, code and config as deterministic layers, assembled and loaded by digest."""
