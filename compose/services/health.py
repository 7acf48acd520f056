"""A service's health check: `python3 -m services.health URL` exits 0 where it answers, 1 where it does not."""

import sys
import urllib.error
import urllib.request


def main(url: str) -> None:
    """Ask once. A refused login is an answer, too: the check has no key."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError as error:
        if error.code != 401:
            sys.exit(f"{url}: {error}")
    except OSError as error:
        sys.exit(f"{url}: {error}")


if __name__ == "__main__":
    main(sys.argv[1])
