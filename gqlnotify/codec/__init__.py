"""Encodes values as JSON and decodes them; refuses a value that would decode as another one."""
