"""Persisted documents: clients can send their names, and may be limited to them.

A client's build creates the file: Relay's map from hash to document, or Apollo's manifest.
"""

import json
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from graphql import GraphQLError, parse

from gqlnotify.errors import OperationNotAllowed, PersistedQueryNotFound
from gqlnotify.observability.metrics import refused
from gqlnotify.settings import Settings

_APOLLO = "apollo-persisted-query-manifest"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class PersistedOperations:
    """The persisted documents by their names, which are usually hashes.

    Args:
        documents: the documents by name; None if there is no list.
        only: refuse all other documents.

    Raises:
        ValueError: `only` is set, but there are no documents.
    """

    def __init__(self, documents: Mapping[str, str] | None = None, *, only: bool = False) -> None:
        if only and not documents:
            raise ValueError("only_persisted needs a file: name it as persisted_operations")
        self._documents = documents
        self._allowed = frozenset((documents or {}).values()) if only else None

    @classmethod
    def from_settings(cls, settings: Settings) -> "PersistedOperations":
        """Return the documents from the file that the settings name.

        Raises:
            OSError: the file can't be read.
            ValueError: the file is malformed; the message names the file and the entry.
        """
        path = settings.persisted_operations
        documents = None if path is None else read(path)
        return cls(documents, only=settings.only_persisted)

    def find(self, query: str | None, document_id: str | None) -> str | None:
        """Return the requested document: `query`, or the one with the name.

        Without a list, a name gives None: an extension of the application may know it.

        Raises:
            PersistedQueryNotFound: the list does not have the name.
        """
        document = self.peek(query, document_id)
        if document is None and document_id is not None and self._documents is not None:
            refused(PersistedQueryNotFound.code)
            # Apollo's clients check for this exact text, and then send the document.
            raise PersistedQueryNotFound("PersistedQueryNotFound")
        return document

    def peek(self, query: str | None, document_id: str | None) -> str | None:
        """Return the same as `find`, but None instead of raising."""
        if query or document_id is None or self._documents is None:
            return query
        return self._documents.get(document_id)

    def check(self, query: str | None) -> None:
        """Refuse a document that is not in the list, if only listed ones are allowed.

        Raises:
            OperationNotAllowed: it is not in the list.
        """
        if self._allowed is not None and query and query not in self._allowed:
            refused(OperationNotAllowed.code)
            raise OperationNotAllowed("Only persisted operations are allowed here")


NONE_PERSISTED = PersistedOperations()


def read(path: Path) -> Mapping[str, str]:
    """Return the documents of a file by their names.

    Raises:
        OSError: the file can't be read.
        ValueError: the file is malformed; the message names the file and the entry.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    documents: dict[str, str] = {}
    for name, document in _entries(path, content):
        _check(f"{path}: {name}", name, document)
        documents[name] = document
    return documents


def _entries(path: Path, content: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(content, dict):
        raise _malformed(f"{path} must be an object of documents by their hashes")
    if content.get("format") != _APOLLO:
        yield from content.items()
        return
    if content.get("version") != 1 or not isinstance(content.get("operations"), list):
        raise ValueError(f"{path}: an Apollo manifest must have version 1 and `operations`")
    for number, entry in enumerate(content["operations"]):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
            raise _malformed(f"{path}: operation {number} must be an object with an `id`")
        yield entry["id"], entry.get("body")


def _check(where: str, name: str, document: Any) -> None:
    if not isinstance(document, str):
        raise _malformed(f"{where} must be a document")
    if _SHA256.fullmatch(name) and name != sha256(document.encode()).hexdigest():
        raise ValueError(f"{where} is not the SHA-256 of its document")
    try:
        parse(document)
    except GraphQLError as error:
        raise ValueError(f"{where}: {error}") from None


def _malformed(what: str) -> ValueError:
    return ValueError(what)
