"""`python -m gqlnotify` is the command line."""

from gqlnotify.cli import app

app(prog_name="gqlnotify")
