"""Validation in steps, so that the event loop can run other tasks between them.

graphql-core validates a document in one call, which takes up to 0.2 seconds within the limits. Here
the same rules visit the same nodes in the same order, and so find the same errors.
"""

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

from graphql import (
    BREAK,
    SKIP,
    ASTValidationRule,
    DocumentNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLSchema,
    Node,
    ParallelVisitor,
    TypeInfo,
    TypeInfoVisitor,
    ValidationContext,
    Visitor,
    validate,
)

from gqlnotify.execution.strawberry_adapter import QUERY_DOCUMENT_KEYS, ValidationAbortedError


class Validation:
    """The validation of one document.

    Args:
        schema: the schema to validate against.
        ast: the document.
        rules: the classes of the rules.
        max_errors: validation stops after this number of errors.
        hide_suggestions: whether to omit "Did you mean" suggestions from errors.

    `errors` has the errors found so far.
    """

    def __init__(
        self,
        schema: GraphQLSchema,
        ast: DocumentNode,
        rules: Collection[type[ASTValidationRule]],
        *,
        max_errors: int,
        hide_suggestions: bool,
    ) -> None:
        spreads = any(isinstance(each, FragmentDefinitionNode) for each in ast.definitions)
        # A validation without rules refuses fragments that are nested too deeply for the rules.
        self.errors = validate(schema, ast, ()) if spreads else []
        self._max_errors = max_errors
        types = TypeInfo(schema)
        context = ValidationContext(schema, ast, types, self._report, hide_suggestions)
        visitor = TypeInfoVisitor(types, ParallelVisitor([rule(context) for rule in rules]))
        self._visits = iter(()) if self.errors else _visit(ast, visitor)

    def step(self, visits: int) -> bool:
        """Visit the next `visits` nodes. Return whether more may be left.

        Exceptions of rules pass through.
        """
        try:
            return sum(1 for _ in islice(self._visits, visits)) == visits
        except ValidationAbortedError as aborted:
            # Keep no frames of this error, or of one that was handled when it was raised.
            aborted.__context__ = None
            self.errors.append(aborted.with_traceback(None))
        except RecursionError:
            self.errors.append(ValidationAbortedError("Validation aborted."))
        return False

    def _report(self, error: GraphQLError) -> None:
        if len(self.errors) >= self._max_errors:
            raise ValidationAbortedError(
                "Too many validation errors, error limit reached. Validation aborted."
            )
        self.errors.append(error)


def _visit(document: DocumentNode, visitor: Visitor) -> Iterator[None]:
    """Visit nodes as graphql-core's `visit` does, but without edits. Yield after each visit."""
    path: list[Any] = []
    ancestors: list[Any] = []
    left: list[tuple[bool, Any, Any, Any]] = [(True, None, None, document)]
    while left:
        entering, key, parent, node = left.pop()
        if not entering and parent is not None:
            ancestors.pop()
        if entering and parent is not None:
            path.append(key)
        action = None
        if isinstance(node, Node):
            action = _call(visitor, entering, node, key, parent, path, ancestors)
            yield
        if action is BREAK or action is True:
            return
        if entering and action is not SKIP and action is not False:
            left.append((False, key, parent, node))
            left.extend((True, below, node, child) for below, child in _children_last_first(node))
            if parent is not None:
                ancestors.append(parent)
        elif parent is not None:
            path.pop()


def _call(visitor: Visitor, entering: bool, node: Node, *where: Any) -> Any:
    enter, leave = visitor.get_enter_leave_for_kind(node.kind)
    function = enter if entering else leave
    return None if function is None else function(node, *where)


def _children_last_first(node: Any) -> list[tuple[Any, Any]]:
    if isinstance(node, tuple):
        return list(enumerate(node))[::-1]
    return [
        (key, child)
        for key in reversed(QUERY_DOCUMENT_KEYS.get(node.kind, ()))
        # "Descriptions [...] must not affect [...] validation" of the document.
        if key != "description" and (child := getattr(node, key, None)) is not None
    ]
