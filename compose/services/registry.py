"""Starts Debian's registry with one login, from $MIRAGE_STORE_KEY and $MIRAGE_STORE_SECRET, and its data in /data.

The login is what keeps others from writing; the registry wants it as a file of bcrypt hashes.
"""

import crypt
import json
import os
from pathlib import Path

LOGINS, SETTINGS = Path("/tmp/logins"), Path("/tmp/registry.json")


def main() -> None:
    """Write both files, and become the registry."""
    user, password = os.environ.pop("MIRAGE_STORE_KEY"), os.environ.pop("MIRAGE_STORE_SECRET")
    os.umask(0o077)
    LOGINS.write_text(
        f"{user}:{crypt.crypt(password, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=1 << 10))}\n"
    )
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": "/data"}, "delete": {"enabled": True}},
        "http": {"addr": ":5000"},
        "auth": {"htpasswd": {"realm": "mirage", "path": str(LOGINS)}},
    }
    SETTINGS.write_text(json.dumps(settings))  # JSON is YAML
    os.execvp("docker-registry", ["docker-registry", "serve", str(SETTINGS)])


if __name__ == "__main__":
    main()
