"""The command line: `llmcore <verb>`, one file a verb.

`command` finds the module of a verb and turns exceptions into sentences, `options` turns a dataclass, a YAML file and
flags into settings, `text` prepares raw text for training. Only tyro and dataclasses are imported before a verb runs,
so that `--help` answers at once.
"""

from __future__ import annotations

from llmcore.cli.command import main

__all__ = ["main"]
