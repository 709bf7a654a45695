"""Checks any server against docs/spec.md, over the network alone.

It knows nothing of the server but a contract (`contract.py`): how to subscribe, how to publish.
"""
