"""The command line. Nothing heavy is imported until a command needs it."""

from moemerge.cli import commands, doctor, evaluation, exporting, pushing, starting, tracing, training
from moemerge.cli.app import app, print_problems, run

__all__ = [
    "app", "commands", "doctor", "evaluation", "exporting", "print_problems", "pushing", "run", "starting", "tracing",
    "training",
]  # fmt: skip
