"""The task service as it ships, with one route more."""

from benchmarks.apps.probe import with_probe
from schema.app import create_app

app = with_probe(create_app())
