"""The model: softmax regression, the smallest thing that learns."""

from __future__ import annotations

import math

CLASSES = 3
FEATURES = 2


class SoftmaxRegression:
    """One row of weights for each class, the bias last."""

    def __init__(self) -> None:
        self.weights = [[0.0] * (FEATURES + 1) for _ in range(CLASSES)]

    def probabilities(self, point: list[float]) -> list[float]:
        """How likely each class is."""
        scores = [row[0] * point[0] + row[1] * point[1] + row[2] for row in self.weights]
        highest = max(scores)
        powers = [math.exp(score - highest) for score in scores]
        total = sum(powers)
        return [power / total for power in powers]

    def predict(self, point: list[float]) -> int:
        """The likeliest class."""
        found = self.probabilities(point)
        return found.index(max(found))

    def learn(self, batch: list[list[float]], lr: float) -> float:
        """One step down the gradient of the cross-entropy; gives the mean loss before the step."""
        gradient = [[0.0] * (FEATURES + 1) for _ in range(CLASSES)]
        loss = 0.0
        for x, y, label in batch:
            found = self.probabilities([x, y])
            loss -= math.log(max(found[int(label)], 1e-12))
            for number, probability in enumerate(found):
                error = probability - (number == int(label))
                for place, value in enumerate((x, y, 1.0)):
                    gradient[number][place] += error * value
        for row, change in zip(self.weights, gradient):
            for place in range(FEATURES + 1):
                row[place] -= lr * change[place] / len(batch)
        return loss / len(batch)
