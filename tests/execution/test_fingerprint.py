"""Two functions are equal only if they can never behave differently."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from enum import Enum
from functools import partial
from itertools import combinations
from types import FrameType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqlnotify.execution.fingerprint import (
    fingerprint,
    fingerprint_of_class,
    fingerprints_of_functions,
)

Made = Callable[[Any], Callable[..., Any]]


def of(function: Callable[..., Any]) -> Any:
    return fingerprints_of_functions(function)


def by_closure(value: Any) -> Callable[..., Any]:
    return lambda x: x == value


def by_default(value: Any) -> Callable[..., Any]:
    return lambda x, expected=value: x == expected


def by_keyword_default(value: Any) -> Callable[..., Any]:
    return lambda x, *, expected=value: x == expected


def by_partial(value: Any) -> Callable[..., Any]:
    return partial(lambda expected, x: x == expected, value)


def by_partial_keyword(value: Any) -> Callable[..., Any]:
    return partial(lambda x, expected: x == expected, expected=value)


def by_nested_function(value: Any) -> Callable[..., Any]:
    def expected() -> Any:
        return value

    return lambda x: x == expected()


def by_inner_lambda(value: Any) -> Callable[..., Any]:
    return lambda xs: sorted(xs, key=lambda x: bool(x == value))


def by_tuple_of_functions(value: Any) -> Callable[..., Any]:
    checks: tuple[Callable[[Any], bool], ...] = (lambda x: x == value, lambda x: x != value)
    return lambda x: any(check(x) for check in checks)


MAKERS: list[Made] = [
    by_closure,
    by_default,
    by_keyword_default,
    by_partial,
    by_partial_keyword,
    by_nested_function,
    by_inner_lambda,
    by_tuple_of_functions,
]


@pytest.mark.parametrize("made", MAKERS)
def test_the_same_code_with_the_same_value_is_the_same(made: Made) -> None:
    one, other = made("".join(["ten", "ant"])), made("".join(["ten", "ant"]))
    assert one is not other
    assert of(one) == of(other)
    assert hash(of(one)) == hash(of(other))


@pytest.mark.parametrize("made", MAKERS)
def test_the_same_code_with_another_value_is_not(made: Made) -> None:
    assert of(made("one")) != of(made("other"))


@pytest.mark.parametrize("made", MAKERS)
@pytest.mark.parametrize("make", [list, set, dict, object, bytearray])
def test_mutable_values_are_equal_only_if_they_are_identical(
    made: Made, make: Callable[[], Any]
) -> None:
    value = make()
    assert of(made(value)) == of(made(value))
    assert of(made(make())) != of(made(make()))


class Colour(Enum):
    RED = 1
    GREEN = 2


class Name(str):
    __slots__ = ()


ALIKE: list[Any] = [
    1, True, 1.0, "1", b"1", Decimal(1), Decimal("1.0"), 1 + 0j, (1,), (True,), (1.0,),
    frozenset({1}), frozenset({True}), 0, False, 0.0, -0.0, 0j, -0.0j, None, "", b"", (),
    frozenset(), ((1,),), ((True,),), Name("1"), Colour.RED, Colour.GREEN, UUID(int=1), UUID(int=0),
]  # fmt: skip


def test_values_of_different_types_are_not_equal_though_python_says_so() -> None:
    for one, other in combinations(ALIKE, 2):
        assert fingerprint(one) != fingerprint(other), (one, other)
        assert of(by_closure(one)) != of(by_closure(other)), (one, other)


def test_a_value_is_the_same_as_itself() -> None:
    for value in ALIKE:
        assert fingerprint(value) == fingerprint(value)
        assert hash(fingerprint(value)) == hash(fingerprint(value))


IMMUTABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.tuples(inner) | st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)


@given(IMMUTABLE, IMMUTABLE)
def test_the_same_fingerprint_means_the_same_value(one: Any, other: Any) -> None:
    if fingerprint(one) == fingerprint(other):
        assert repr(one) == repr(other) or one == other
        assert type(one) is type(other)
    if one != other:
        assert fingerprint(one) != fingerprint(other)


def test_other_code_is_not_the_same() -> None:
    assert of(lambda x: x == 1) != of(lambda x: x == 2)
    assert of(lambda x: x == 1) != of(lambda x: x == True)  # noqa: E712
    assert of(lambda x: x == 0.0) != of(lambda x: x == -0.0)
    first, second = (lambda x: x), (lambda x: x)
    assert of(first) != of(second)


def counting(_value: Any) -> Callable[..., Any]:
    seen = 0

    def count(x: Any) -> bool:
        nonlocal seen
        seen += 1
        return seen < 3

    return count


def counting_inside(_value: Any) -> Callable[..., Any]:
    seen = 0

    def where(x: Any) -> bool:
        def count() -> None:
            nonlocal seen
            seen += 1

        count()
        return seen < 3

    return where


def counting_by_a_helper(_value: Any) -> Callable[..., Any]:
    seen = 0

    def count() -> int:
        nonlocal seen
        seen += 1
        return seen

    return lambda x: count() < 3


def with_an_attribute(_value: Any) -> Callable[..., Any]:
    def where(x: Any) -> bool:
        return bool(where.value == x)  # type: ignore[attr-defined]

    where.value = _value  # type: ignore[attr-defined]
    return where


def with_a_list_as_default(_value: Any) -> Callable[..., Any]:
    def where(x: Any, seen: list[Any] = []) -> bool:  # noqa: B006
        seen.append(x)
        return len(seen) < 3

    return where


def by_an_empty_cell(_value: Any) -> Callable[..., Any]:
    def where(x: Any) -> bool:
        return bool(x == later)

    if _value is None:
        later = 1
    return where


def that_calls_itself(_value: Any) -> Callable[..., Any]:
    def where(x: Any) -> bool:
        return x < 1 or where(x - 1)

    return where


class Checking:
    def __call__(self, x: Any) -> bool:
        return True

    def check(self, x: Any) -> bool:
        return True


@pytest.mark.parametrize(
    "made",
    [
        counting,
        counting_inside,
        counting_by_a_helper,
        with_an_attribute,
        with_a_list_as_default,
        by_an_empty_cell,
        that_calls_itself,
        lambda _value: Checking(),
        lambda _value: Checking().check,
        lambda _value: {"a"}.__contains__,
    ],
)
def test_a_function_with_state_is_equal_only_to_itself(made: Made) -> None:
    one, other = made("a"), made("a")
    assert of(one) == of(one)
    assert of(one) != of(other)


def test_a_method_of_one_object_is_the_same() -> None:
    checking = Checking()
    assert of(checking.check) == of(checking.check)


HANDLES: list[Callable[[], None]] = []


def pausing(wrap: Callable[[Callable[[], bool]], Callable[..., Any]]) -> Callable[..., Any]:
    """Return a filter that other code can pause."""
    paused = False

    def pause() -> None:
        nonlocal paused
        paused = True

    HANDLES.append(pause)
    return wrap(lambda: not paused)


def in_a_closure(check: Callable[[], bool]) -> Callable[..., Any]:
    return lambda _x: check()


def in_a_tuple(check: Callable[[], bool]) -> Callable[..., Any]:
    checks = (check,)
    return lambda _x: checks[0]()


def in_a_default(check: Callable[[], bool]) -> Callable[..., Any]:
    return lambda _x, check=check: check()


def in_a_keyword_default(check: Callable[[], bool]) -> Callable[..., Any]:
    return lambda _x, *, check=check: check()


def in_a_partial(check: Callable[[], bool]) -> Callable[..., Any]:
    return partial(lambda check, _x: check(), check)


def in_a_captured_partial(check: Callable[[], bool]) -> Callable[..., Any]:
    held = partial(lambda check: check(), check)
    return lambda _x: held()


@pytest.mark.parametrize(
    "wrap",
    [
        in_a_closure,
        in_a_tuple,
        in_a_default,
        in_a_keyword_default,
        in_a_partial,
        in_a_captured_partial,
    ],
)
def test_a_mutable_value_is_equal_only_to_itself(
    wrap: Callable[[Callable[[], bool]], Callable[..., Any]],
) -> None:
    HANDLES.clear()
    one, other = pausing(wrap), pausing(wrap)
    before = of(one), of(other)
    HANDLES[0]()
    assert one(None) != other(None)
    assert before[0] != before[1]


def deep(value: Any, levels: int) -> Callable[..., Any]:
    if levels == 0:
        return by_closure(value)
    inner = deep(value, levels - 1)
    return lambda x: not inner(x)


def test_a_value_too_deep_to_compare_is_not_equal() -> None:
    assert of(deep(1, 2)) == of(deep(1, 2))
    assert of(deep(1, 50)) != of(deep(1, 50))


def test_functions_that_know_each_other_are_soon_compared() -> None:
    def knowing() -> Callable[..., Any]:
        def a(x: Any) -> Any:
            return (a, b, c, d, e, f)

        def b(x: Any) -> Any:
            return (a, b, c, d, e, f)

        def c(x: Any) -> Any:
            return (a, b, c, d, e, f)

        def d(x: Any) -> Any:
            return (a, b, c, d, e, f)

        def e(x: Any) -> Any:
            return (a, b, c, d, e, f)

        def f(x: Any) -> Any:
            return (a, b, c, d, e, f)

        return a

    # Each subscriber needs a fingerprint, and computing it blocks the event loop.
    with counted_calls() as calls:
        assert of(knowing()) != of(knowing())
    assert calls[0] < 200_000


@contextmanager
def counted_calls() -> Iterator[list[int]]:
    """Count the calls of functions, in the only item of the yielded list."""
    calls = [0]

    def count(frame: FrameType, event: str, argument: Any) -> None:
        calls[0] += event == "call"

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)


# Classes that a function makes


def rule_of(limit: Any) -> type:
    class Rule:
        def check(self, value: int) -> bool:
            return bool(value <= limit)

        def again(self) -> None:
            return super().__init__()

    return Rule


def rule_with_a_default(limit: Any) -> type:
    class Rule:
        def check(self, value: int, most: Any = limit) -> bool:
            return bool(value <= most)

    return Rule


def rule_with_a_keyword_default(limit: Any) -> type:
    class Rule:
        def check(self, value: int, *, most: Any = limit) -> bool:
            return bool(value <= most)

    return Rule


def rule_with_an_attribute(limit: Any) -> type:
    class Rule:
        most = limit

    return Rule


def rule_with_an_attribute_of_a_method(limit: Any) -> type:
    class Rule:
        def check(self, value: int) -> bool:
            return bool(value <= Rule.check.most)  # type: ignore[attr-defined]

    Rule.check.most = limit  # type: ignore[attr-defined]
    return Rule


RULES = [
    rule_of,
    rule_with_a_default,
    rule_with_a_keyword_default,
    rule_with_an_attribute,
    rule_with_an_attribute_of_a_method,
]


@pytest.mark.parametrize("made", RULES)
def test_classes_with_other_limits_are_not_the_same(made: Callable[[Any], type]) -> None:
    assert fingerprint_of_class(made(1)) != fingerprint_of_class(made(2))
    assert fingerprint_of_class(made(1)) != fingerprint_of_class(made(True))


@pytest.mark.parametrize("made", RULES[:2] + RULES[3:4])
def test_classes_with_the_same_limits_are(made: Callable[[Any], type]) -> None:
    assert fingerprint_of_class(made(1)) == fingerprint_of_class(made(1))


def counting_rule() -> type:
    seen = 0

    class Rule:
        def check(self) -> int:
            nonlocal seen
            seen += 1
            return seen

    return Rule


def unfinished_rule(finish: bool) -> type:
    class Rule:
        def check(self) -> int:
            return limit

    if finish:
        limit = 1
    return Rule


def test_a_class_that_counts_or_is_unfinished_is_only_the_same_as_itself() -> None:
    for made in (counting_rule, lambda: unfinished_rule(False)):
        one, other = made(), made()
        assert fingerprint_of_class(one) == fingerprint_of_class(one)
        assert fingerprint_of_class(one) != fingerprint_of_class(other)


def test_a_class_of_a_module_is_only_the_same_as_itself() -> None:
    assert fingerprint_of_class(Checking) == fingerprint_of_class(Checking)
    assert fingerprint_of_class(Checking) != fingerprint_of_class(Colour)
