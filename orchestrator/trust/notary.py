"""Seals records and verdicts: signed where a key is configured, appended to the store's log, created once.

Loaded by every run: what signs is imported only where something is signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.digest import Digest
from orchestrator.ports import Reporter, Store
from orchestrator.trust.chain import Link, Log

if TYPE_CHECKING:
    from orchestrator.trust.keys import Signer

Statement = Callable[[Link], bytes]


class Notary:
    """Seals into one store with at most one key."""

    def __init__(
        self,
        store: Store,
        signer: Callable[[], Signer | None] = lambda: None,
        memory: Path | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.signer = signer
        self._store = store
        self._memory = memory
        self._reporter = reporter

    def ready(self) -> None:
        """Load the key now, so that a missing one is told before the work and not after. Raises ConfigError."""
        self.signer()

    def log(self) -> Log:
        """The store's log."""
        return Log(self._store, self._memory, self._reporter)

    def seal(
        self,
        key: str,
        statement: Statement,
        before: Callable[[Link, Digest], None] = lambda link, digest: None,
    ) -> bytes:
        """Seal a Statement under a key of the store; gives the bytes that lie there. Raises StoreError, ConfigError.

        ``statement`` gives its bytes for a place in the log, and is called again where another process took that
        place; ``before`` is told of each place before it is tried.
        """
        signer = self.signer()

        def make(link: Link) -> bytes:
            payload = statement(link)
            if signer is None:
                return payload
            from orchestrator.trust.dsse import Envelope, Signature, pae

            signed = Signature(signer.public.keyid, signer.sign(pae(payload)))
            return Envelope(payload, (signed,)).encode()

        return self.log().append(key, make, before)

    def finish(self, key: str, tried: Iterable[tuple[int, Digest]]) -> bytes | None:
        """Complete what a dead process had sealed but for the object under ``key``; None where it had not."""
        return self.log().finish(key, tried)
