"""The command line. Nothing heavy is imported until a command needs it."""

from moemerge.cli import commands, evaluation, tracing, training
from moemerge.cli.app import app, main, print_problems

__all__ = ["app", "commands", "evaluation", "main", "print_problems", "tracing", "training"]
