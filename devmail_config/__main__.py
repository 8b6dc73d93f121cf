"""The program: the console script ``devmail``, and ``python -m devmail_config``."""

from devmail_config import ending


def main() -> None:
    """Run the command line."""
    ending.listen()
    from devmail_config.cli import main as run

    run()


if __name__ == "__main__":
    main()
