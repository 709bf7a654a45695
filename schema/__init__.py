"""The task service: tasks in a database, and every change of them as an event.

It is an application of gqlnotify, on its public names alone. `schema.app:app` is what runs.
"""
