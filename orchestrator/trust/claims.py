"""Whom a project believes what a key led to: signed results in the store, and the setting that says which count.

A signed result lies beside the plain one, as a DSSE envelope around an in-toto Statement; several machines may sign the
same. Decision: docs/adr/0023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

from orchestrator import canonical
from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import ConfigError, ImageError, MirageError
from orchestrator.image.belief import ANY, OWN, SIGNED, STORE, Entry, Known, Origin, Told, folder_of, results
from orchestrator.ports import Store
from orchestrator.provenance import BUILDER, STATEMENT_TYPE
from orchestrator.source.state import tracked
from orchestrator.store.ownership import is_mine
from orchestrator.trust import dsse, trusted
from orchestrator.trust.trusted import BAD, GOOD, UNKNOWN, Trust, TrustedKey

if TYPE_CHECKING:
    from orchestrator.trust.keys import PublicKey, Signer

PREDICATE_TYPE = "https://mirage.flow/key-result/v1"
AUTO = "auto"
WORDS = (ANY, SIGNED, OWN)  # each believes less than the one before it
VARIABLE = "MIRAGE_TRUST_ENVIRONMENTS"
# An image is assembled anew in a fifth of a second, a bill of materials in less: they are never taken on trust.
VOUCHED = frozenset({"env", "base", "recipe", "dockerfile", "wheel", "wheels", "resolved"})
MOST = 64  # signatures that are looked at for one key
LONGEST = 4 << 20  # bytes of one
_BUILDER = BUILDER.format(executor="local-docker")


class Vouching:
    """The belief of a project: `trust.environments` with what the machine's user says, whichever believes less.

    ``folder`` is the store's, None where it is no folder of this machine. ``signer`` gives the key that signs here;
    ``own`` its public half where that can be had without a passphrase.
    """

    def __init__(
        self,
        setting: str,
        environment: Mapping[str, str],
        folder: Path | None,
        trust: Callable[[], Trust],
        signer: Callable[[], Signer | None] = lambda: None,
        own: Callable[[], PublicKey | None] = lambda: None,
        project: Path | None = None,
    ) -> None:
        self._project = project or Path("/nonexistent")
        self._setting = setting
        self._environment = environment
        self._folder = folder
        self._load = trust
        self._signer = signer
        self._own = own

    @cached_property
    def policy(self) -> str:
        """`any`, `signed` or `own`. Raises ConfigError for a word that is none of them in the variable."""
        word = self._setting
        if word == AUTO:
            word = ANY if self._mine else SIGNED
        here = self._environment.get(VARIABLE)
        if here in (None, "", AUTO):
            return word
        if here not in WORDS:
            raise ConfigError(f"{VARIABLE} is {here!r}, expected {', '.join(WORDS)} or {AUTO}")
        return max(word, here, key=WORDS.index)

    @cached_property
    def _mine(self) -> bool:
        if self._folder is None or not is_mine(self._folder):
            return False
        return not (self._project in self._folder.parents and tracked(self._project, str(self._folder)))

    @cached_property
    def trust(self) -> Trust:
        """The project's trusted keys, and the user's own."""
        found, own = self._load(), self._own()
        if own is None or any(each.key == own for each in found.keys):
            return found
        return Trust((*found.keys, TrustedKey("you", own)))

    def believed(self, place: Store, kind: str, key: Digest) -> list[Known]:
        """The results that count under the policy."""
        if self.policy == ANY:
            return [Known(entry, Origin(STORE, ANY)) for entry in results(place, kind, key).values()]
        if self.policy == OWN or kind not in VOUCHED:
            return []
        found: dict[str, Known] = {}
        for claim in claims(place, kind, key):
            state, by = claim.judged(self.trust)
            if state == GOOD and by is not None:
                origin = Origin(STORE, SIGNED, by.key.keyid, by.name)
                found.setdefault(str(claim.entry["digest"]), Known(claim.entry, origin))
        return [*found.values()]

    def refused(self, place: Store, kind: str, key: Digest) -> list[Told]:
        """What the store says besides, and why it does not count."""
        if self.policy == ANY:
            return []
        try:
            told = [*results(place, kind, key).values()]
        except ImageError:
            return []
        counted = {str(known.entry["digest"]) for known in self.believed(place, kind, key)}
        if self.policy == OWN:
            reasons = dict.fromkeys((str(entry["digest"]) for entry in told), "only this machine's own count")
        else:
            reasons = {
                str(claim.entry["digest"]): claim.told(self.trust) for claim in claims(place, kind, key)
            }
        return [
            Told(entry, reasons.get(str(entry["digest"]), "the store has it unsigned"))
            for entry in told
            if str(entry["digest"]) not in counted
        ]

    def vouch(self, place: Store, kind: str, key: Digest, entry: Entry, *, late: bool = False) -> None:
        """Sign a result. What was known before (``late``) is signed only where others use the store."""
        if kind not in VOUCHED or (late and self._mine):
            return
        public = self._own()
        if late and public is not None and place.read(_name(kind, key, entry, public)) is not None:
            return
        signer = self._signer()
        if signer is None:
            return
        payload = statement(kind, key, entry)
        made = dsse.Signature(signer.public.keyid, signer.sign(dsse.pae(payload)))
        place.create(_name(kind, key, entry, signer.public), dsse.Envelope(payload, (made,)).encode())


class Claim:
    """A signed result as it lies in a store: read, not yet believed."""

    def __init__(self, envelope: dsse.Envelope, entry: Entry, builder: str) -> None:
        self.entry = entry
        self._envelope = envelope
        self._builder = builder

    def judged(self, trust: Trust) -> tuple[str, TrustedKey | None]:
        """Whether it counts (`good`), and with whose key."""
        signed = trust.check(self._envelope)
        if signed.by is not None and not signed.by.allows(self._builder):
            return BAD, signed.by
        return signed.state, signed.by

    def told(self, trust: Trust) -> str:
        """Who says so, in words."""
        keyid = self._envelope.signatures[0].keyid
        words = {GOOD: "signed by", UNKNOWN: "signed with a key that is not trusted here,"}
        state, by = self.judged(trust)
        if state == GOOD and by is not None:
            return f"signed by {by.name}"
        return f"{words.get(state, 'its signature is not of')} {keyid}"


def statement(kind: str, key: Digest, entry: Entry) -> bytes:
    """What is signed: an in-toto Statement that a key led to this result."""
    digest = hex_of(parse_digest(entry["digest"]))
    return canonical.encode(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": f"{kind}:{hex_of(key)}", "digest": {"sha256": digest}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {"builder": {"id": _BUILDER}, "kind": kind, "key": key, "result": entry},
        }
    )


def claims(place: Store, kind: str, key: Digest) -> Iterator[Claim]:
    """The signed results of a key, as many as are looked at; what is no such thing is passed over."""
    for name in islice(place.keys(f"{folder_of(kind, key)}/signed/"), MOST):
        with suppress(ValueError, KeyError, TypeError, RecursionError, MirageError):
            data = place.read(name) or b""
            envelope = dsse.unseal(data)
            if len(data) > LONGEST or not envelope.signatures:
                continue
            item = canonical.decode(envelope.payload)
            entry = cast("Entry", item["predicate"]["result"])  # type: ignore[index, call-overload]
            if isinstance(entry, dict) and statement(kind, key, entry) == envelope.payload:
                yield Claim(envelope, entry, _BUILDER)


def of_layer(place: Store, kind: str, key: Digest, digest: Digest, trust: Trust) -> str:
    """Who says in a store that a key led to this digest, in words."""
    signed = [claim.told(trust) for claim in claims(place, kind, key) if claim.entry["digest"] == digest]
    return ", ".join(dict.fromkeys(signed)) or "nobody signed it"


def _name(kind: str, key: Digest, entry: Entry, public: PublicKey) -> str:
    told = hex_of(of_bytes(public.raw))[:16]
    return f"{folder_of(kind, key)}/signed/{hex_of(parse_digest(entry['digest']))}.{told}.json"


def of_project(
    setting: str,
    project: Path,
    environment: Mapping[str, str],
    folder: Path | None,
    signer: Callable[[], Signer | None],
    sign_key: str,
) -> Vouching:
    """The belief of a project, with its trusted keys read when they are first needed.

    A store that lies in the repository, committed, came from whoever committed it.
    """

    def own() -> PublicKey | None:
        from orchestrator.trust.chosen import chosen
        from orchestrator.trust.keys import read_public

        with suppress(ConfigError):
            path = chosen(sign_key, project, environment)
            if path is not None:
                return read_public(Path(f"{path}.pub"))
        return None

    return Vouching(setting, environment, folder, lambda: trusted.load(project), signer, own, project)
