"""The command line, one file for each command. torch is imported once a command needs it."""

from .entry import COMMANDS, build_parser, main

__all__ = ["COMMANDS", "build_parser", "main"]
