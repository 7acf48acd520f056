"""Training and evaluation."""

from __future__ import annotations

import random
from collections.abc import Iterator

from src.model import SoftmaxRegression


def train(
    model: SoftmaxRegression, rows: list[list[float]], lr: float, batch_size: int, epochs: int, seed: int
) -> Iterator[float]:
    """Train in mini-batches; gives the mean loss of each epoch as it ends."""
    source = random.Random(seed)
    order = list(rows)
    for _ in range(epochs):
        source.shuffle(order)
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        losses = [model.learn(batch, lr) * len(batch) for batch in batches]
        yield sum(losses) / len(order)


def accuracy(model: SoftmaxRegression, rows: list[list[float]]) -> float:
    """The part of the rows that the model gets right."""
    return sum(model.predict(row[:2]) == int(row[2]) for row in rows) / len(rows)
