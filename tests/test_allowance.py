"""A record that asks for weaker fences than the project here allows is not followed, whatever it asks for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.errors import CannotVerify
from orchestrator.judging.allowance import KEYS, loosened, require
from orchestrator.judging.record import Record
from orchestrator.settings import RunSettings
from tests.record_tools import run_id


def record(
    *, network: str = "none", gpus: tuple[str, ...] = (), secrets: tuple[str, ...] = (), **sandbox: Any
) -> Record:
    """What somebody else's record says of its sandbox."""
    usual = {"runtime": None, "pids": 4096, "memory": None, "cpus": None, "shm": 1 << 30}
    definition = {
        "externalParameters": {"network": network, "gpus": [*gpus], "secretNames": [*secrets]},
        "internalParameters": {"sandbox": {**usual, **sandbox}},
    }
    return Record(run_id(1), json.dumps({"predicate": {"buildDefinition": definition}}).encode())


@pytest.mark.parametrize(
    ("asks", "here", "key"),
    [
        (record(network="host"), RunSettings(), "network"),
        (record(network="bridge"), RunSettings(), "network"),
        (record(network="host"), RunSettings(network="bridge"), "network"),
        (record(gpus=("all",)), RunSettings(), "gpus"),
        (record(gpus=("1",)), RunSettings(gpus=("0",)), "gpus"),
        (record(runtime="other"), RunSettings(), "runtime"),
        (record(), RunSettings(runtime="runsc"), "runtime"),
        (record(pids=1 << 30), RunSettings(), "pids"),
        (record(), RunSettings(memory=1 << 30), "memory"),
        (record(memory=2 << 30), RunSettings(memory=1 << 30), "memory"),
        (record(memory=-1), RunSettings(memory=1 << 30), "memory"),
        (record(), RunSettings(cpus=1.0), "cpus"),
        (record(cpus=64), RunSettings(cpus=1.5), "cpus"),
        (record(shm=1 << 50), RunSettings(), "shm_size"),
        (record(secrets=("AWS_SECRET_ACCESS_KEY",)), RunSettings(), "secrets"),
        (record(secrets=("A", "B")), RunSettings(secrets=("A",)), "secrets"),
    ],
)
def test_more_than_is_allowed_here_is_refused_by_its_key(asks: Record, here: RunSettings, key: str) -> None:
    assert [*loosened(asks, here)] == [key]
    with pytest.raises(CannotVerify) as refused:
        require(asks, here, [other for other in KEYS if other != key])
    assert refused.value.hint is not None and f"--allow {key}" in refused.value.hint
    require(asks, here, [key])


@pytest.mark.parametrize(
    ("asks", "here"),
    [
        (record(), RunSettings()),
        (record(network="bridge"), RunSettings(network="host")),
        (record(gpus=("0",)), RunSettings(gpus=("all",))),
        (record(runtime="runsc", pids=64), RunSettings(runtime="runsc", pids=16)),
        (record(memory=1 << 30, cpus=1), RunSettings(memory=1 << 30, cpus=1.5)),
        (record(memory=1 << 40, cpus=64), RunSettings()),
        (record(shm=1 << 20, secrets=("A",)), RunSettings(secrets=("A", "B"))),
    ],
)
def test_what_is_allowed_here_needs_no_option(asks: Record, here: RunSettings) -> None:
    require(asks, here, ())
