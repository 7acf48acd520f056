"""Train a model on the data set that the config names, or on a new one where it names none."""

from __future__ import annotations

from src.model import SoftmaxRegression
from src.train import accuracy, train
from workflows.data_pipeline import prepare_dataset

from mirage import artifact, config, flow, metrics, step


@step
def get_dataset() -> artifact.Dataset:
    """The config's data set; without one, make it."""
    named = config.data.get("train_dataset")
    if named is not None:
        return artifact.Dataset.load(named)
    return prepare_dataset(config.data.samples, config.data.test_fraction, config.data.seed)


@flow
def training_pipeline() -> artifact.Model:
    """Train, evaluate, save."""
    dataset = get_dataset()
    rows = dataset.load()
    model = SoftmaxRegression()
    training = config.training
    losses = train(model, rows["train"], training.lr, training.batch_size, training.epochs, training.seed)
    for epoch, loss in enumerate(losses, 1):
        metrics.log(step=epoch, loss=loss)
        print(f"epoch {epoch}: loss {loss:.4f}")
    result = {"accuracy": accuracy(model, rows["test"])}
    metrics.log(**result)
    print(f"accuracy on {len(rows['test'])} test points: {result['accuracy']:.4f}")
    return artifact.Model.save(
        {"type": config.model.type, "weights": model.weights},
        name=config.experiment.name,
        metadata={"trained_on": dataset.id, **result},
    )


if __name__ == "__main__":
    print(f"saved {training_pipeline().id}")
