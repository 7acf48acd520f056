"""The data: three clouds of points in the plane, made from a seed, and split for training and testing."""

from __future__ import annotations

import random

CENTRES = ((0.0, 0.0), (2.0, 0.5), (0.8, 2.0))
SPREAD = 0.7

Row = list[float]


def generate(samples: int, seed: int) -> list[Row]:
    """Rows of x, y and the number of the cloud; the same seed gives the same rows."""
    source = random.Random(seed)
    rows = []
    for number in range(samples):
        label = number % len(CENTRES)
        x, y = CENTRES[label]
        rows.append([round(source.gauss(x, SPREAD), 6), round(source.gauss(y, SPREAD), 6), float(label)])
    return rows


def split(rows: list[Row], test_fraction: float, seed: int) -> dict[str, list[Row]]:
    """The rows in a seeded order, a part of them set aside for the test."""
    mixed = list(rows)
    random.Random(seed).shuffle(mixed)
    tests = round(len(mixed) * test_fraction)
    return {"train": mixed[tests:], "test": mixed[:tests]}
