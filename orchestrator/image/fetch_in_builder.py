"""Fetches files into /build/fetched, run inside the throw-away builder on the base's own Python; each by its hash.

/build/fetch.json says which, and the logins by origin; $NETRC has more. Proxies and certificates are in the
environment, as Python has them. Standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import netrc
import os
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

FOLDER = "/build/fetched"
ATTEMPTS = 4


class SameOrigin(urllib.request.HTTPRedirectHandler):
    """Follows redirects; a login does not go along to another origin."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        """As the standard library, without the login elsewhere."""
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            made.remove_header("Authorization")
        return made


def login_of(url: str, logins: list[list[str]]) -> str:
    """The value of the Authorization header for a URL, or nothing."""
    parts = urlsplit(url)
    found = next(((u, p) for scheme, place, u, p in logins if (scheme, place) == parts[:2]), None)
    if found is None and os.environ.get("NETRC"):
        told = netrc.netrc(os.environ["NETRC"]).authenticators(parts.hostname or "")
        found = (told[0], told[2] or "") if told else None
    return "" if found is None else "Basic " + base64.b64encode(":".join(found).encode()).decode()


def fetch(order: dict[str, str], login: str) -> None:
    """One file, checked while it comes."""
    request = urllib.request.Request(order["url"], headers={"User-Agent": "mirage"})  # noqa: S310
    if login:
        request.add_unredirected_header("Authorization", login)
    kind, _, wanted = order["hash"].partition(":")
    hasher = hashlib.new(kind)
    path, opener = (
        os.path.join(FOLDER, os.path.basename(order["file"])),
        urllib.request.build_opener(SameOrigin),
    )
    with opener.open(request, timeout=60) as source, open(path, "wb") as target:
        while piece := source.read(1 << 20):
            hasher.update(piece)
            target.write(piece)
    if hasher.hexdigest() != wanted:
        sys.exit(f"hash mismatch for {order['file']}: expected {wanted}, got {hasher.hexdigest()}")


def main() -> None:
    """All of them, each tried a few times."""
    with open("/build/fetch.json", encoding="utf-8") as source:
        told = json.load(source)
    os.unlink("/build/fetch.json")
    os.makedirs(FOLDER, exist_ok=True)
    for order in told["files"]:
        for attempt in range(ATTEMPTS):
            try:
                fetch(order, login_of(order["url"], told["logins"]))
                break
            except (OSError, urllib.error.URLError) as error:
                if attempt + 1 == ATTEMPTS or (
                    isinstance(error, urllib.error.HTTPError) and error.code < 429
                ):
                    sys.exit(f"{order['file']} cannot be fetched: {error}")
                time.sleep(0.5 * 2**attempt)


if __name__ == "__main__":
    main()
