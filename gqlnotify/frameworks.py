"""Checks at import that a framework has what an adapter takes from it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from inspect import signature
from types import FunctionType
from typing import Any


def missing(owner: type, *names: str) -> tuple[str, ...]:
    """Return those of `names` that are no attributes of `owner`, as `Owner.name`.

    An attribute that only instances have counts if a method of `owner` or of a base names it.
    """
    known = set(_named_in_methods(owner))
    return tuple(
        f"{owner.__qualname__}.{name}"
        for name in names
        if not hasattr(owner, name) and name not in known
    )


def missing_parameters(function: Callable[..., Any], *names: str) -> tuple[str, ...]:
    """Return those of `names` that are no parameters of `function`, as `function(name)`."""
    known = signature(function).parameters
    return tuple(f"{function.__qualname__}({name})" for name in names if name not in known)


def require(package: str, lacking: Sequence[str]) -> None:
    """Refuse a version of `package` that lacks something.

    Raises:
        ImportError: `lacking` is not empty. The text names the version and what to install.
    """
    if lacking:
        raise ImportError(f"gqlnotify can't work with {_what_lacks(package, lacking)}")


@cache
def warn_of_fallback(
    logger: logging.Logger, package: str, lacking: Sequence[str], cost: str
) -> None:
    """Log, once, that the portable path serves because `package` lacks something."""
    logger.warning("%s: gqlnotify can't fully use %s", cost, _what_lacks(package, lacking))


def _what_lacks(package: str, lacking: Sequence[str]) -> str:
    return (
        f"{package} {version(package)}, which has no {', '.join(lacking)}. Install one of the "
        "versions that gqlnotify's own requirements name"
    )


def _named_in_methods(owner: type) -> Iterator[str]:
    for base in owner.__mro__:
        for method in vars(base).values():
            if isinstance(method, FunctionType):
                yield from method.__code__.co_names
