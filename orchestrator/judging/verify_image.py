"""The checks of a record's image, keys and source: kept manifests, labels, layers, and the commit in its repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator import canonical
from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import ImageError, MirageError, SourceError
from orchestrator.image import restoring
from orchestrator.image.belief import ANY, Origin
from orchestrator.image.oci import Image, timestamp
from orchestrator.image.restoring import Wanted
from orchestrator.judging.blobs import MISMATCH, MISSING, OK, Blobs
from orchestrator.judging.record import Record, recorded_key, sha256_of, wanted_image
from orchestrator.key import Key
from orchestrator.ports import Engine, Store
from orchestrator.source import git
from orchestrator.trust import claims
from orchestrator.trust.trusted import Trust


class Checks:
    """What was found so far, and the store's blobs."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self.found: list[tuple[str, str, str]] = []

    def add(self, check: str, state: str, text: str) -> None:
        """One finding."""
        self.found.append((check, state, text))

    def equal(self, check: str, expected: Any, got: Any) -> bool:
        """A finding only where two values are not the same."""
        if type(expected) is type(got) and expected == got:
            return True
        self.add(check, MISMATCH, f"expected {expected!r}, the record says {got!r}"[:600])
        return False

    def blob(self, check: str, digest: Digest) -> bool:
        """A finding on a blob."""
        state = self.blobs.state(digest)
        words = {OK: "", MISSING: " is not in the store", MISMATCH: " has other bytes in the store"}
        self.add(check, state, f"{digest}{words[state]}")
        return state == OK


def check(
    record: Record,
    store: Store,
    project: Path,
    engine: Engine | None,
    checks: Checks,
    trust: Trust | None = None,
) -> None:
    """All checks of this module."""
    verification = _Image(record, store, checks)
    verification.agreement()
    verification.config()
    verification.image(engine)
    verification.environment(trust or Trust())
    verification.keys()
    verification.source(project)


class _Image:
    def __init__(self, record: Record, store: Store, checks: Checks) -> None:
        self._record = record
        self._store = store
        self._checks = checks
        self._external, self._internal = record.external, record.internal
        self._source = record.dependency("source")
        self._wanted: Wanted = wanted_image(record)

    def agreement(self) -> None:
        """What the record says twice, it says alike."""
        external, internal, checks = self._external, self._internal, self._checks
        place, source = self._source["annotations"], self._source["digest"]
        branch = external["ref"]
        address = external["source"] + (f"@{branch}" if branch else "")
        checks.equal("source.uri", address, self._source["uri"])
        checks.equal("source.path", external["projectPath"], place["path"])
        if place["dirty"] == (place["baseCommit"] == source["gitCommit"]):
            checks.add("source.dirty", MISMATCH, "dirty and the two commits do not go together")
        config, image = self._record.dependency("config"), self._record.dependency("image")
        checks.equal("config.uri", f"{external['source']}#{external['configPath']}", config["uri"])
        checks.equal("config", internal["configHash"], sha256_of(config))
        address, _, lock = self._record.dependency("lock")["uri"].rpartition("#")
        if address != external["source"] or not lock:
            checks.add("lock.uri", MISMATCH, f"{address}#{lock} is not in {external['source']}")
        checks.equal("image.uri", f"pkg:oci/{external['project']}", image["uri"])
        checks.equal("image", self._wanted.digest, image["annotations"]["manifestDigest"])
        if image["annotations"]["engineId"] not in (self._wanted.digest, self._wanted.config_digest):
            checks.add("image.engineId", MISMATCH, "the engine's id is neither the image's nor its config's")
        command = ["python", "-m", external["workflow"], "--config", external["configPath"]]
        checks.equal("entrypoint", command, external["entrypoint"][: len(command)])
        checks.equal("sandbox.network", external["network"], internal["sandbox"]["network"])
        told = internal["determinism"]
        for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR"):
            checks.equal("threads", str(internal["threads"]), told.get(f"{name}_NUM_THREADS"))
        checks.equal("seed", str(internal["seed"]), told.get("MIRAGE_SEED"))
        checks.equal("determinism", external["configPath"], told.get("MIRAGE_CONFIG"))

    def config(self) -> None:
        """The resolved config's bytes."""
        self._checks.blob("config", parse_digest(self._internal["configHash"]))

    def image(self, engine: Engine | None) -> None:
        """Restorable from the store, layer by layer, or present in the engine; and what its labels say."""
        checks, wanted = self._checks, self._wanted
        present = _present(engine, wanted)
        try:
            kept = restoring.kept(self._store, wanted)
        except ImageError as error:
            checks.add("image", MISMATCH, error.message)
            return
        if kept is None:
            what = (
                "is in the engine, but the store could not restore it"
                if present
                else "is not kept in the store"
            )
            checks.add("image", OK if present else MISSING, f"{wanted.digest} {what}")
            return
        if not checks.equal("image.diffIds", list(kept.diff_ids), list(wanted.diff_ids)):
            return
        states = {digest: checks.blobs.state(digest) for digest in kept.diff_ids}
        pushed = "" if present or MISSING not in states.values() else _in_registry(self._store, wanted)
        for digest, state in states.items():
            if state == MISMATCH or (state == MISSING and not (present or pushed)):
                checks.add("image.layer", state, f"{digest}{'' if state == MISSING else ' has other bytes'}")
        if present or pushed or set(states.values()) == {OK}:
            how = ["in the engine"] if present else []
            how += [f"in {pushed}"] if pushed else []
            how += ["restorable from the store"] if set(states.values()) == {OK} else []
            checks.add("image", OK, f"{wanted.digest}, {len(states)} layers, {' and '.join(how)}")
        self._labels(kept)

    def environment(self, trust: Trust) -> None:
        """Where the layer of the packages came from, and who signs that its key led to it."""
        told = self._internal.get("environment")
        try:
            image = restoring.kept(self._store, self._wanted)
        except ImageError:
            return
        layers = () if image is None else image.layers
        layer = next((each.digest for each in layers if each.created_by == "mirage environment"), None)
        if told is None or layer is None:  # a record of before, or an image that the store does not describe
            return
        origin = Origin(told["from"], told["because"], told["keyid"], trust.name_of(told["keyid"]) or "")
        signed = claims.of_layer(self._store, "env", parse_digest(self._internal["envKey"]), layer, trust)
        state = "unsigned" if origin.because == ANY and not signed.startswith("signed by") else OK
        self._checks.add("environment", state, f"{layer} was {origin.told()}; in this store {signed}")

    def _labels(self, image: Image) -> None:
        """What the image says of itself, which its digest holds fast."""
        described: Any = canonical.decode(image.config)
        labels, created = described["config"]["Labels"], described["created"]
        record, source = self._record, self._source["digest"]
        for name, got in (
            ("flow.mirage.config", self._internal["configHash"]),
            ("flow.mirage.env-key", self._internal["envKey"]),
            ("flow.mirage.image-key", self._internal["imageKey"]),
            ("flow.mirage.lock", sha256_of(record.dependency("lock"))),
            ("flow.mirage.tree", source["gitTree"]),
            ("org.opencontainers.image.base.digest", sha256_of(record.dependency("base-image"))),
            ("org.opencontainers.image.revision", source["gitCommit"]),
        ):
            self._checks.equal(f"image label {name}", labels.get(name), got)
        if "org.opencontainers.image.title" in labels:
            title = labels["org.opencontainers.image.title"]
            self._checks.equal("project", title, self._external["project"])
        epoch = self._internal["determinism"].get("SOURCE_DATE_EPOCH", "")
        moment = timestamp(int(epoch)) if epoch.isdigit() else epoch
        self._checks.equal("determinism.SOURCE_DATE_EPOCH", created, moment)
        platform = f"{described['os']}/{described['architecture']}"
        self._checks.equal("platform", platform, self._internal["platform"])

    def keys(self) -> None:
        """Each key from its kept manifest, and the manifest from the record."""
        internal, record, checks = self._internal, self._record, self._checks
        environment = self._manifest("env", parse_digest(internal["envKey"]))
        if environment is not None:
            lock = environment.get("lock")
            said = {
                "base": environment.get("base"),
                "platform": environment.get("platform"),
                "lockKind": lock.get("kind") if isinstance(lock, dict) else None,
                "python": str(environment.get("python")).rpartition(" ")[2],
            }
            for name, got in (
                ("base", sha256_of(record.dependency("base-image"))),
                *((name, internal[name]) for name in ("platform", "lockKind", "python")),
            ):
                checks.equal(f"env key: {name}", said[name], got)
        image = self._manifest("image", parse_digest(internal["imageKey"]))
        if image is None:
            return
        for name, got in (
            ("env_key", internal["envKey"]),
            ("commit", self._source["digest"]["gitCommit"]),
            ("tree", self._source["digest"]["gitTree"]),
            ("path", self._external["projectPath"]),
            ("config_path", self._external["configPath"]),
            ("config", internal["configHash"]),
        ):
            checks.equal(f"image key: {name}", image.get(name), got)
        self._run_key(image)

    def _manifest(self, kind: str, key: Digest) -> dict[str, Any] | None:
        """A key's kept manifest, where it hashes to the key."""
        data = self._store.read(f"keys/{kind}/{hex_of(key)}/manifest.json")
        if data is None:
            self._checks.add(f"{kind} key", MISSING, f"the manifest of {key} is not in the store")
            return None
        if of_bytes(data) != key:
            self._checks.add(
                f"{kind} key", MISMATCH, f"its kept manifest hashes to {of_bytes(data)}, not {key}"
            )
            return None
        found = canonical.decode(data)
        self._checks.add(f"{kind} key", OK, f"{key}, from its kept manifest")
        return found if isinstance(found, dict) else None

    def _run_key(self, image: dict[str, Any]) -> None:
        internal = self._internal
        image_key = Key(parse_digest(internal["imageKey"]), canonical.encode(image))
        made = recorded_key(self._record, image_key)
        if self._checks.equal("run key", made.digest, internal["runKey"]):
            self._checks.add("run key", OK, f"{made.digest}, made again from the record")

    def source(self, project: Path) -> None:
        """The commit with its tree and its lock, where the repository has it."""
        commit, prefix = self._source["digest"]["gitCommit"], self._external["projectPath"]
        lock_path = self._record.dependency("lock")["uri"].rpartition("#")[2]
        below = f"{prefix}/" if prefix else ""
        try:
            if git.run(project, "cat-file", "-e", f"{commit}^{{commit}}").code != 0:
                self._checks.add("source", MISSING, f"the commit {commit} is not in a repository here")
                return
            tree = _ask(project, f"{commit}:{prefix}" if prefix else f"{commit}^{{tree}}")
            if self._checks.equal("source", tree, self._source["digest"]["gitTree"]):
                self._checks.add("source", OK, f"commit {commit} with tree {tree}")
                self._submodules(project, tree)
            done = git.run(project, "cat-file", "blob", f"{commit}:{below}{lock_path}")
        except (SourceError, MirageError) as error:
            self._checks.add("source", MISSING, error.message)
            return
        expected = of_bytes(done.stdout) if done.code == 0 else None
        if self._checks.equal("lock", expected, sha256_of(self._record.dependency("lock"))):
            self._checks.add("lock", OK, f"{lock_path} {expected}")

    def _submodules(self, project: Path, tree: str) -> None:
        """The submodules that the tree names, each at its commit; what is inside of one, its own tree holds."""
        links: dict[str, str] = {}
        for line in filter(None, git.ask(project, "ls-tree", "-r", "-z", "--full-tree", tree).split(b"\0")):
            head, _, path = line.partition(b"\t")
            if head.startswith(b"160000"):
                links[git.printable(path)] = head.split()[2].decode()
        told = {
            item["name"].removeprefix("submodule:"): item["digest"]["gitCommit"]
            for item in self._record.dependencies
            if item["name"].startswith("submodule:")
        }
        inside = tuple(f"{path}/" for path in links)
        direct = {path: commit for path, commit in told.items() if not path.startswith(inside)}
        if self._checks.equal("submodules", links, direct) and links:
            self._checks.add("submodules", OK, ", ".join(f"{path} {links[path]}" for path in links))


def _ask(project: Path, name: str) -> str:
    return git.ask(project, "rev-parse", "--verify", "--quiet", name).decode().strip()


def _in_registry(store: Store, wanted: Wanted) -> str:
    """The registry that has the image now, of those that it was pushed to; empty where none has."""
    from orchestrator.image import exporting

    for reference in exporting.places(store, wanted.key, wanted.digest):
        try:
            if exporting.there(reference):
                return reference.partition("@")[0]
        except MirageError:
            continue
    return ""


def _present(engine: Engine | None, wanted: Wanted) -> bool:
    """Whether the engine has the image with equal diff ids; one that fails has none."""
    try:
        return engine is not None and restoring.in_engine(engine, wanted) is not None
    except MirageError:
        return False
