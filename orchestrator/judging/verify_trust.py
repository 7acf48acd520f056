"""The checks of who signed a record and of its place in the store's log: with the project's trusted keys, running nothing."""

from __future__ import annotations

from typing import Any

from orchestrator.digest import Digest, of_bytes
from orchestrator.judging.blobs import MISMATCH, MISSING, OK
from orchestrator.judging.verify_image import Checks
from orchestrator.ports import Store
from orchestrator.trust import chain
from orchestrator.trust.chain import Entry
from orchestrator.trust.dsse import Envelope
from orchestrator.trust.trusted import BAD, GOOD, TRUST_FILE, UNSIGNED, Trust

UNCHAINED = "unchained"


def signature(check: str, envelope: Envelope, trust: Trust, checks: Checks, *, required: bool) -> bool:
    """Whether an envelope may be read on: False where its signature is not of the key that it says.

    Where there is none it is `unsigned`, which passes unless a signature is required.
    """
    signed = trust.check(envelope)
    if signed.state == GOOD:
        assert signed.by is not None, "a good signature is of a trusted key"
        checks.add(check, OK, f"signed by {signed.by.name} ({signed.keyid})")
    elif signed.state == BAD:
        checks.add(check, MISMATCH, f"it says that {signed.keyid} signed it, and that key did not")
        return False
    elif signed.state == UNSIGNED:
        text = "it is not signed: who wrote it cannot be told"
        checks.add(check, MISSING if required else UNSIGNED, text)
    else:
        text = f"signed with {signed.keyid}, which {TRUST_FILE} does not name: nobody can be told by it"
        checks.add(check, MISSING, text)
    return True


def builder(check: str, envelope: Envelope, trust: Trust, told: str, checks: Checks) -> None:
    """Whether the key may sign for the builder that the record names."""
    signed = trust.check(envelope)
    if signed.by is not None and not signed.by.allows(told):
        allowed = ", ".join(signed.by.builders)
        checks.add(check, MISMATCH, f"{signed.by.name} may sign for {allowed}, not for {told}")


def place(
    check: str, key: str, digest: Digest, told: dict[str, Any] | None, store: Store, checks: Checks
) -> None:
    """A record or verdict at the place in the log that it names; ``told`` is its `mirage_chain`."""
    if told is None:
        claimed = _entries_of(key, store)
        if claimed:
            text = f"the log has it as entry {claimed[0].link.seq}, and it says nothing of that"
            checks.add(check, MISMATCH, text)
        else:
            checks.add(check, UNCHAINED, "it has no place in the log: it was written before there was one")
        return
    own = chain.log_id(store)
    if told["log"] != own:
        checks.add(check, MISMATCH, f"its log is {told['log']}, that of this store is {own}")
        return
    seq = told["seq"]
    data = store.read(chain.entry_key(seq))
    if data is None:
        checks.add(check, MISSING, f"the log has no entry {seq}")
        return
    try:
        entry = chain.parse(data)
    except (ValueError, RecursionError) as error:
        checks.add(check, MISMATCH, f"entry {seq} of the log is damaged: {error}")
        return
    if (entry.key, entry.digest) != (key, digest):
        checks.add(check, MISMATCH, f"entry {seq} of the log is {entry.key} with {entry.digest}")
    elif entry.link.to_json() != told:
        checks.add(check, MISMATCH, f"its entry in the log says {entry.link.to_json()}, it says {told}")
    elif _follows(entry, store, check, checks):
        checks.add(check, OK, f"entry {seq} of the log {own[:12]}")


def _follows(entry: Entry, store: Store, check: str, checks: Checks) -> bool:
    """Whether the entry before is the one that it was written after."""
    seq, prev = entry.link.seq, entry.link.prev
    if seq == 0 or prev is None:
        return checks.equal(check, None, prev) and checks.equal(check, 0, seq)
    before = store.read(chain.entry_key(seq - 1))
    if before is None:
        checks.add(check, MISSING, f"the log has no entry {seq - 1}, which its own follows")
        return False
    if of_bytes(before) != prev:
        checks.add(
            check, MISMATCH, f"entry {seq - 1} of the log is {of_bytes(before)} now, and was {prev} then"
        )
        return False
    return True


def _entries_of(key: str, store: Store) -> list[Entry]:
    """The entries of a record that names none: all are looked at, since records from before the log are rare."""
    found = []
    for name in store.keys(chain.FOLDER):
        try:
            entry = chain.parse(store.read(name) or b"")
        except (ValueError, RecursionError):
            continue
        if entry.key == key:
            found.append(entry)
    return found
