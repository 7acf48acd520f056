"""The main job, on one screen: prepare, begin, submit, start, follow, seal.

Reads top to bottom in `run`; what comes before the container is prepare.py's, its attempts are attempts.py's, what
comes after its start is life.py's. Opens nothing itself: the command line hands in store, engine, executor and reporter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from orchestrator import canonical, definition
from orchestrator.attempts import Finished, Link, attempts
from orchestrator.canonical import Json
from orchestrator.errors import Interrupted
from orchestrator.interrupts import as_ctrl_c
from orchestrator.plan import Plan
from orchestrator.ports import RunSpec
from orchestrator.prepare import Request, Services, Stages, prepare
from orchestrator.reference import RunId, new_run_id
from orchestrator.store.sessions import hold, writing

__all__ = ["Finished", "not_begun", "run", "to_json"]


def run(request: Request, services: Services, *, started: Callable[[RunId], None] | None = None) -> Finished:
    """Do the whole job. A failed workflow is a result, not an error; errors are for what kept it from running.

    ``started`` is told as soon as the workflow runs.
    """
    services.notary.ready()
    stages = Stages(services.reporter)
    try:
        with as_ctrl_c(), writing(services.store) as store:
            banked = replace(services, store=store, library=services.library.banking(store))
            prepared = prepare(request, banked, stages)
            run_id = new_run_id()
            hold(store, run_id, "prepared", definition.needs(prepared, store.put(request.config.canonical)))
    except KeyboardInterrupt as error:
        raise not_begun() from error

    def made(run_id: RunId, before: Link | None) -> tuple[RunSpec, Plan]:
        spec = definition.spec_of(run_id, request, prepared)
        services.reporter.stage("run", f"{run_id} ({prepared.image.image.digest[:19]})")
        store = services.store.location
        return spec, definition.plan_of(spec, request, prepared, services.executor, store, retry_of=before)

    retries = request.config.settings.retry.infrastructure
    return attempts(run_id, made, services, stages, retries=retries, started=started)


def not_begun() -> Interrupted:
    """Of a Ctrl-C before there is a run id."""
    return Interrupted(
        "interrupted before the run began: nothing was run, and there is no record",
        hint="run it again; what was built so far is kept",
    )


def to_json(finished: Finished) -> dict[str, Json]:
    """The object that `mirage-run --json` prints."""
    plan, sealed = finished.plan, finished.sealed
    result = sealed.result
    return {
        "run_id": plan.run_id,
        "status": result.status,
        "exit_code": result.exit_code,
        "signal": result.signal,
        "reason": result.reason,
        **plan.summary(),
        "outputs": [{"id": o.id, "digest": o.digest, "size": o.size} for o in result.outputs],
        "unpublished": list(result.unpublished),
        "metrics": dict(result.metrics),
        "audit": None if result.audit_json is None else canonical.decode(result.audit_json),
        "hints": [*finished.hints],
        "timing": dict(finished.seconds),
        "record": sealed.record,
    }
