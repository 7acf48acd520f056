"""Train a small convolutional network on the data set of the config, and judge it on images it never saw."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mirage import artifact, config, flow, metrics, step
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from src.model import SimpleCNN
from src.train import train


@step
def fit(data: dict[str, np.ndarray]) -> SimpleCNN:
    """A model trained as the config says, with its metrics by epoch."""
    shape, training = config.model, config.training
    model = SimpleCNN(
        shape.input_channels, shape.filters, shape.kernel_size, shape.classes, seed=training.seed
    )
    losses = train(
        model,
        data["x_train"],
        data["y_train"],
        lr=training.lr,
        momentum=training.momentum,
        batch_size=training.batch_size,
        epochs=training.epochs,
        seed=training.seed,
    )
    for epoch, loss in enumerate(losses, 1):
        validation = accuracy_score(data["y_validation"], model.predict(data["x_validation"]))
        metrics.log(step=epoch, train_loss=loss, validation_accuracy=validation)
        print(f"epoch {epoch:2}: train loss {loss:.4f}, validation accuracy {validation:.4f}", flush=True)
    return model


@step
def evaluate(model: SimpleCNN, images: np.ndarray, digits: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """The numbers on the test images, and the confusion matrix."""
    found = model.predict(images)
    numbers = {
        "accuracy": float(accuracy_score(digits, found)),
        "f1_macro": float(f1_score(digits, found, average="macro")),
    }
    metrics.log(**numbers)
    print(f"test accuracy {numbers['accuracy']:.4f} on {len(digits)} images")
    return numbers, confusion_matrix(digits, found)


def draw(confusion: np.ndarray, title: str) -> Figure:
    """The confusion matrix as a picture."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(np.log1p(confusion), cmap="Blues")
    for (row, column), count in np.ndenumerate(confusion):
        if count:
            axes.text(column, row, str(count), ha="center", va="center", color="white" if row == column else "black")
    axes.set(
        title=title,
        xlabel="found",
        ylabel="written",
        xticks=range(len(confusion)),
        yticks=range(len(confusion)),
    )
    return figure


@flow
def training_pipeline() -> artifact.Model:
    """Load, train, evaluate, save."""
    name, version = config.experiment.name, config.experiment.version
    dataset = config.artifact("data.train_dataset")
    data = dataset.load()
    model = fit(data)
    numbers, confusion = evaluate(model, data["x_test"], data["y_test"])
    title = f"{name} {version}: accuracy {numbers['accuracy']:.4f}"
    artifact.Metrics.save({**numbers, "confusion": confusion.tolist()}, name=name, version=version)
    artifact.Report.save(draw(confusion, title), name=f"{name}_confusion", version=version)
    return artifact.Model.save(
        model.weights,
        name=name,
        version=version,
        metadata={"type": config.model.type, "trained_on": dataset.id, **numbers},
    )


if __name__ == "__main__":
    print(f"saved {training_pipeline().id}")
