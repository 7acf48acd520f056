"""The parts that the workflows put together."""
