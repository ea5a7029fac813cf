"""The `moemerge` script, and `python -m moemerge`."""

from moemerge.signals import listening


def main() -> None:
    """Runs the command that the process was started with; the command line is loaded when signals are listened to."""
    with listening():
        from moemerge.cli import run

        run()


if __name__ == "__main__":
    main()
