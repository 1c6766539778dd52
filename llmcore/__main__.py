"""`python -m llmcore`: the command line."""

from __future__ import annotations

from llmcore.cli import main

if __name__ == "__main__":
    main()
