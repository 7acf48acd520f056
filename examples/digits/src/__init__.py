"""The parts of the digits project: data, model, training."""
