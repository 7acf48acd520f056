"""`python -m orchestrator.cli` is `mirage`."""

from orchestrator.cli.main import main

main()
