"""A service's health check: exit 0 where it answers, 1 where it does not. `python -m workflows.health URL`."""

import sys
import urllib.request

if __name__ == "__main__":
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
            print(answer.status)
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
