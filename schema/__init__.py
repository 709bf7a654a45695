"""The task service: tasks in a database, and an event for every change of a task.

It is an application of gqlnotify that uses only public names. Serve `schema.app:app`.
"""
