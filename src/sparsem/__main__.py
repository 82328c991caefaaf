"""The program ``sparsem``, also run by ``python -m sparsem``."""

from sparsem.workflow import interruption


def main() -> None:
    """Run the command line; stop it by Ctrl+C or SIGTERM also while it is loading."""
    try:
        interruption.listen()
        from sparsem.cli.app import run_command_line

        run_command_line()
    except interruption.Stopped:
        interruption.end()


if __name__ == "__main__":
    main()
