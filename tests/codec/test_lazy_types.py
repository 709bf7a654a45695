"""Types that refer to other modules with `strawberry.lazy` can be published."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any

import pytest
import strawberry
from pydantic.errors import PydanticUndefinedAnnotation

from gqlnotify import Topic
from gqlnotify.codec.lazy_types import teach_pydantic

PETS = """
from typing import TYPE_CHECKING, Annotated
import strawberry
from gqlnotify import Topic
if TYPE_CHECKING:
    from lazy_owners import Owner

@strawberry.type
class Pet:
    name: str
    owner: Annotated["Owner", strawberry.lazy("lazy_owners")] | None = None

# Owner does not exist yet: its module imports this one first.
TOPIC = Topic("pets", Pet)
"""
OWNERS = """
from __future__ import annotations
from typing import TYPE_CHECKING, Annotated
import strawberry
import lazy_pets
if TYPE_CHECKING:
    from lazy_pets import Pet

@strawberry.type
class Owner:
    name: str
    pets: list[Annotated[Pet, strawberry.lazy("lazy_pets")]]
"""


@pytest.fixture
def modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[ModuleType, ModuleType]]:
    (tmp_path / "lazy_pets.py").write_text(PETS)
    (tmp_path / "lazy_owners.py").write_text(OWNERS)
    monkeypatch.syspath_prepend(tmp_path)
    owners = import_module("lazy_owners")
    yield import_module("lazy_pets"), owners
    del sys.modules["lazy_pets"], sys.modules["lazy_owners"]


def test_types_that_refer_to_each_other_round_trip(modules: tuple[Any, Any]) -> None:
    pets, owners = modules
    tom = pets.Pet(name="Tom", owner=owners.Owner(name="Ann", pets=[pets.Pet(name="Kit")]))
    assert pets.TOPIC.decode(pets.TOPIC.encode(tom)) == tom

    pet = Annotated["Pet", strawberry.lazy("lazy_pets")]  # type: ignore[name-defined]  # noqa: F821
    owner = Annotated["Owner", strawberry.lazy("lazy_owners")]  # type: ignore[name-defined]  # noqa: F821
    for type_, value in ((pet, tom), (list[pet], [tom]), (pet | owner, tom.owner)):
        topic = Topic[Any]("pets", type_)
        assert topic.decode(topic.encode(value)) == value


def test_an_unknown_type_name_is_an_error_at_the_first_use() -> None:
    nowhere = Annotated["Nowhere", strawberry.lazy("tests.no_such_module")]  # type: ignore[name-defined]  # noqa: F821
    topic = Topic[Any]("nowhere", nowhere)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        topic.encode(1)
    undefined = Topic[Any]("nowhere", list["Nowhere"])  # type: ignore[name-defined]  # noqa: F821
    with pytest.raises(PydanticUndefinedAnnotation, match="Nowhere"):
        undefined.decode(b"[]")


@pytest.mark.parametrize("lacking", [{}, {"LazyType": type("LazyType", (), {})}])
def test_a_strawberry_whose_lazy_types_differ_is_refused(
    monkeypatch: pytest.MonkeyPatch, lacking: dict[str, Any]
) -> None:
    monkeypatch.setitem(sys.modules, "strawberry", SimpleNamespace(**lacking))
    with pytest.raises(ImportError, match="lazy types of this version of strawberry-graphql"):
        teach_pydantic()


def test_without_strawberry_there_are_no_lazy_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "strawberry")
    teach_pydantic()
