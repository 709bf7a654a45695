"""The command line, as `gqlnotify` and as `python -m gqlnotify`."""

import sys

from gqlnotify.extras import MissingExtra, needs


def main() -> None:
    """Run the command line, or print how to install what it needs."""
    try:
        with needs("server", "The command line"):
            from gqlnotify.cli import app  # noqa: PLC0415
    except MissingExtra as missing:
        sys.exit(f"gqlnotify: {missing}")
    app(prog_name="gqlnotify")


if __name__ == "__main__":
    main()
