"""The executor on an engine of this machine: binds inputs read-only and an outbox, hardened by default.

Owns what a run's container may do (design section 9). Knows host paths; nothing above it does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from orchestrator import canonical
from orchestrator.artifacts import outbox, removal
from orchestrator.artifacts.inputs import InputCache
from orchestrator.canonical import Json
from orchestrator.digest import parse_digest
from orchestrator.engine_values import ContainerSpec, ContainerState, EngineInfo, Mount, Tmpfs
from orchestrator.errors import EngineError
from orchestrator.executors import gpus as gpu
from orchestrator.executors import reconnecting, secret_delivery
from orchestrator.executors.room import Watch
from orchestrator.ports import Ended, Engine, InputMount, RunSpec, Sandbox
from orchestrator.redaction import NONE, Secrets
from orchestrator.settings import OutputSettings

RUN_LABEL = "flow.mirage.run"
# A run started by root is still not root inside: this uid owns its outbox and nothing else on the machine.
UNPRIVILEGED = 10001


class LocalDocker:
    """Runs on one engine; ``runs`` is the project's folder of runs, ``inputs`` the laid-out trees."""

    id = "local-docker"

    def __init__(
        self, engine: Engine, runs: Path, inputs: InputCache, outputs: OutputSettings | None = None
    ) -> None:
        self._outputs = outputs or OutputSettings()
        self._engine = engine
        self._runs = runs
        self._inputs = inputs

    def info(self) -> EngineInfo:
        """The engine behind it."""
        return self._engine.info()

    def check_gpus(self, gpus: tuple[str, ...], image_env: tuple[tuple[str, str], ...] = ()) -> None:
        """Whether GPUs can be given. Raises EngineError, ImageError where it is known that they cannot."""
        if gpus:
            gpu.requests(gpus, self._engine.info())
            gpu.check_image(image_env)

    def sandbox(self, spec: RunSpec) -> Sandbox:
        """What a run's container will be allowed to do here. Raises EngineError for an engine that cannot be used."""
        container = self._container(spec)
        return Sandbox(
            user=container.user,
            read_only_rootfs=container.read_only,
            capabilities_dropped=container.drop_capabilities,
            no_new_privileges=True,
            network=container.network,
            pids=container.pids,
            memory=container.memory,
            cpus=container.cpus,
            shm_size=container.shm_size,
            seccomp="default",
            init=container.init,
            limits_enforced=self._engine.info().limits_enforced,
            devices=tuple(map(str, container.devices)),
            runtime=container.runtime,
        )

    def submit(self, spec: RunSpec) -> str:
        """Lay out the inputs, make the outbox, create the container. Raises EngineError, StoreError."""
        uid, gid = self._user()
        folder = self._runs / spec.run_id
        mounts = [*self._lay_out_inputs(folder, spec), *self._accounts(folder, uid, gid)]
        out = folder / "out"
        outbox.prepare(out)
        if os.geteuid() == 0:
            root = self._engine.info().userns_root or (0, 0)
            for path in (out, out / "artifacts"):
                os.chown(path, root[0] + uid, root[1] + gid)
        mounts.append(Mount(str(out), "/mirage/out", read_only=False))
        return self._engine.create(replace(self._container(spec), mounts=tuple(mounts)))

    def _container(self, spec: RunSpec) -> ContainerSpec:
        """The container of a run, but for its mounts."""
        uid, gid = self._user()
        return ContainerSpec(
            image=spec.image_id,
            argv=secret_delivery.command(spec.argv) if spec.secrets else spec.argv,
            name=f"mirage-{spec.run_id}",
            env=tuple(
                sorted(
                    {
                        # compute and utility only: no display, no video
                        **({"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"} if spec.gpus else {}),
                        **dict(spec.env),
                        **secret_delivery.variables(spec.secrets),
                    }.items()
                )
            ),
            labels=(
                (RUN_LABEL, spec.run_id),
                ("flow.mirage.project", spec.project),
                ("flow.mirage.journal", str(self._runs / spec.run_id / "journal")),
            ),
            user=f"{uid}:{gid}",
            working_dir="/workspace",
            network=spec.network,
            pids=spec.pids,
            runtime=spec.runtime,
            shm_size=spec.shm_size,
            memory=spec.memory,
            cpus=spec.cpus,
            devices=gpu.requests(spec.gpus, self._engine.info()),
            stdin=bool(spec.secrets),
            tmpfs=(
                # exec: compilers of models (torch.compile, numba) load what they write there
                Tmpfs("/mirage/tmp", f"rw,exec,nosuid,nodev,mode=0700,uid={uid},gid={gid}"),
                Tmpfs("/tmp", "rw,nosuid,nodev,mode=1777"),  # noqa: S108 - the container's own
                *((secret_delivery.folder(uid, gid),) if spec.secrets else ()),
            ),
        )

    def _user(self) -> tuple[int, int]:
        """The caller; root inside a rootless engine, where that is the caller; never root otherwise.

        As the container sees it: an engine with userns-remap has a range of its own for that.
        """
        info = self._engine.info()
        if info.rootless:
            return 0, 0
        if info.userns:
            if os.geteuid() == 0 and info.userns_root is not None:
                return UNPRIVILEGED, UNPRIVILEGED
            raise EngineError(
                "this engine maps users to others (userns-remap), and only root can give a run's outbox to one of them",
                hint="run it as root, or use an engine without userns-remap, or a rootless one",
            )
        if os.geteuid() != 0:
            return os.getuid(), os.getgid()
        caller, group = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
        if caller.isdigit() and group.isdigit() and int(caller) != 0:
            return int(caller), int(group)
        return UNPRIVILEGED, UNPRIVILEGED

    def _lay_out_inputs(self, folder: Path, spec: RunSpec) -> list[Mount]:
        """The tree of each input at /mirage/in/trees/N, with inputs.json beside them."""
        place: dict[str, int] = {}
        top = folder / "in"
        (top / "trees").mkdir(parents=True, exist_ok=True)
        mounts = []
        for item in (*spec.inputs, *spec.resumed):
            if item.tree not in place:
                place[item.tree] = len(place)
                (top / "trees" / str(place[item.tree])).mkdir(exist_ok=True)
                source = self._inputs.lay_out(item.tree).resolve()
                mounts.append(Mount(str(source), f"/mirage/in/trees/{place[item.tree]}", read_only=True))
        told: dict[str, Json] = {
            "schema": "mirage-inputs/1",
            "inputs": {item.written: _entry(item, place[item.tree]) for item in spec.inputs},
        }
        if spec.resumed:
            told["resumed"] = [_entry(item, place[item.tree]) for item in spec.resumed]
        text = json.dumps(told, sort_keys=True)
        _write_readable(top / "inputs.json", text)
        (folder / "trees.json").write_text(
            json.dumps([(item.id, item.tree) for item in (*spec.inputs, *spec.resumed)])
        )
        for made in (top, top / "trees", *(top / "trees" / str(number) for number in place.values())):
            made.chmod(0o755)
        return [Mount(str(top.resolve()), "/mirage/in", read_only=True), *mounts]

    def changed_inputs(self, run_id: str) -> tuple[str, ...]:
        """The ids of a run's inputs that somebody wrote to since they were laid out."""
        try:
            listed = json.loads((self._runs / run_id / "trees.json").read_text())
            return tuple(sorted({id for id, tree in listed if self._inputs.changed(parse_digest(tree))}))
        except (OSError, ValueError):  # the disk fails, or failed: whoever seals the record will say it
            return ()

    def _accounts(self, folder: Path, uid: int, gid: int) -> list[Mount]:
        """passwd and group with the run's user in them: getpwuid must work (torch and getpass call it)."""
        passwd, group = folder / "passwd", folder / "group"
        user = "" if uid == 0 else f"mirage:x:{uid}:{gid}:mirage:/mirage/tmp:/bin/sh\n"
        own = "" if gid == 0 else f"mirage:x:{gid}:\n"
        nobody = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        _write_readable(passwd, f"root:x:0:0:root:/root:/bin/sh\n{user}{nobody}")
        _write_readable(group, f"root:x:0:\n{own}nogroup:x:65534:\n")
        return [Mount(str(path.resolve()), f"/etc/{path.name}", read_only=True) for path in (passwd, group)]

    def start(self, handle: str, secrets: Secrets = NONE) -> None:
        """Start it, with the values of the secrets that its spec names."""
        self._engine.start(handle, secret_delivery.payload(secrets.values) if secrets.values else None)

    def follow(self, handle: str) -> Iterator[tuple[str, bytes]]:
        """Its output; called before ``start`` nothing is missed."""
        return reconnecting.output(self._engine, handle, self._engine.attach(handle))

    def replay(self, handle: str, *, follow: bool) -> Iterator[tuple[str, bytes]]:
        """The output that the engine kept so far, and what follows."""
        kept = self._engine.logs(handle, follow=follow)
        return reconnecting.output(self._engine, handle, kept) if follow else kept

    def wait(self, handle: str) -> Ended | None:
        """Block until it has ended; a broken wait is never believed, the container is inspected again.

        Where its outbox fills the disk it is killed, and its end says so.
        """
        state = self._engine.inspect(handle)
        run_id = dict(state.labels).get(RUN_LABEL) if state is not None else None
        if run_id is None:
            return reconnecting.end(self._engine, handle)

        def kill() -> None:
            with suppress(EngineError):
                self._engine.kill(handle)

        with Watch(self.outbox(run_id), self._outputs, kill) as watch:
            ended = reconnecting.end(self._engine, handle)
        return ended if ended is None or watch.told is None else replace(ended, error=watch.told)

    def ping(self) -> None:
        """Raise EngineError unless the engine answers."""
        self._engine.ping()

    def state(self, handle: str) -> ContainerState | None:
        """Its state now, or None where it is gone."""
        return self._engine.inspect(handle)

    def cancel(self, handle: str, grace: float) -> None:
        """Ask it to end; after ``grace`` seconds make it end."""
        self._engine.stop(handle, grace)

    def kill(self, handle: str) -> None:
        """End it at once."""
        self._engine.kill(handle)

    def outbox(self, run_id: str) -> Path:
        """The folder that is mounted as the run's outbox."""
        return self._runs / run_id / "out"

    def find(self, run_id: str) -> str | None:
        """The container of a run, by its label."""
        found = self._engine.find(f"{RUN_LABEL}={run_id}")
        return found[0].id if found else None

    def cleanup(self, handle: str | None, run_id: str) -> None:
        """Remove the container, also through a restart of the engine, then the outbox and the mount points."""
        if handle is not None:
            reconnecting.remove(self._engine, handle)
        for name in ("out", "in"):
            with suppress(OSError):
                removal.remove(self._runs / run_id / name)
        for name in ("passwd", "group"):
            (self._runs / run_id / name).unlink(missing_ok=True)


def _entry(item: InputMount, number: int) -> dict[str, Json]:
    """What inputs.json says of an input whose tree has this number."""
    return {
        "id": item.id,
        "path": f"trees/{number}",
        "entry": item.entry,
        "digest": item.digest,
        "format": item.format,
        "size": item.size,
        "files": item.files,
        "metadata": canonical.decode(item.metadata),
    }


def _write_readable(path: Path, text: str) -> None:
    """Write a file that the run's user can read, whatever this process's umask is."""
    path.write_text(text)
    path.chmod(0o644)
