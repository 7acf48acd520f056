"""Training by stochastic gradient descent with momentum, in mini-batches of a seeded order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from src.model import SimpleCNN


def train(
    model: SimpleCNN,
    images: np.ndarray,
    digits: np.ndarray,
    lr: float,
    momentum: float,
    batch_size: int,
    epochs: int,
    seed: int,
) -> Iterator[float]:
    """Train in place; gives the mean loss of each epoch as it ends."""
    order = np.random.default_rng(seed)
    speed = {name: np.zeros_like(weight) for name, weight in model.weights.items()}
    for _ in range(epochs):
        total = 0.0
        for batch in _batches(order.permutation(len(images)), batch_size):
            found = model.forward(images[batch])
            total -= float(np.log(found[np.arange(len(batch)), digits[batch]] + 1e-12).sum())
            for name, gradient in model.gradients(found, digits[batch]).items():
                speed[name] = momentum * speed[name] - lr * gradient
                model.weights[name] += speed[name].astype(np.float32)
        yield total / len(images)


def _batches(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
