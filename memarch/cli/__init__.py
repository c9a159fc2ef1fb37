"""The `memarch` command: input and output only, everything else is in the library."""


def main() -> None:
    """Entry point of the console script."""
    from .app import app

    app()
