"""Checks at import that a framework has the attributes that an adapter uses."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from inspect import signature
from types import FunctionType
from typing import Any


def missing(owner: type, *names: str) -> tuple[str, ...]:
    """Return, as `Owner.name`, each of `names` that is not an attribute of `owner`.

    An attribute that only instances have exists if the code of a method of `owner` or of a base
    uses its name.
    """
    known = set(_named_in_methods(owner))
    return tuple(
        f"{owner.__qualname__}.{name}"
        for name in names
        if not hasattr(owner, name) and name not in known
    )


def missing_parameters(function: Callable[..., Any], *names: str) -> tuple[str, ...]:
    """Return, as `function(name)`, each of `names` that is not a parameter of `function`."""
    known = signature(function).parameters
    return tuple(f"{function.__qualname__}({name})" for name in names if name not in known)


def require(package: str, lacking: Sequence[str]) -> None:
    """Refuse the installed version of `package` if it lacks something.

    Raises:
        ImportError: `lacking` is not empty. The text has the version and what to install.
    """
    if lacking:
        raise ImportError(f"gqlnotify can't work with {_what_lacks(package, lacking)}")


@cache
def warn_of_fallback(
    logger: logging.Logger, package: str, lacking: Sequence[str], cost: str
) -> None:
    """Log once that the portable path is used because `package` lacks something."""
    logger.warning("%s: gqlnotify can't fully use %s", cost, _what_lacks(package, lacking))


def _what_lacks(package: str, lacking: Sequence[str]) -> str:
    return (
        f"{package} {version(package)}, which has no {', '.join(lacking)}. Install one of the "
        "versions that gqlnotify's requirements name"
    )


def _named_in_methods(owner: type) -> Iterator[str]:
    for base in owner.__mro__:
        for method in vars(base).values():
            if isinstance(method, FunctionType):
                yield from method.__code__.co_names
