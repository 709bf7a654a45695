"""Types whose fields have a description can be published."""

from enum import Enum
from typing import Annotated, Optional

import pytest
import strawberry

from gqlnotify import Topic
from gqlnotify.errors import InternalError


@strawberry.enum
class Colour(Enum):
    RED = "red"


@strawberry.type
class Owner:
    name: str | None = strawberry.field(description="Who it is.")


@strawberry.type
class Pet:
    name: str = strawberry.field(description="What it is called.")
    colour: Colour = strawberry.field(description="What it looks like.")
    other: Colour | None = strawberry.field(description="A second colour.")
    colours: list[Colour | None] = strawberry.field(description="All of them.")
    owner: Optional[Owner] = strawberry.field(description="Whose it is.")  # noqa: UP045
    friends: list["Pet"] | None = strawberry.field(description="Whom it knows.", default=None)
    toys: Annotated[list[str], "a note"] = strawberry.field(default_factory=list)


TOPIC = Topic("pets", Pet)


def pet(**fields: object) -> Pet:
    known = {"name": "Tom", "colour": Colour.RED, "other": None, "colours": [], "owner": None}
    return Pet(**{**known, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        pet(),
        pet(other=Colour.RED, colours=[None, Colour.RED], toys=["ball"]),
        pet(owner=Owner(name="Ann"), friends=[pet(owner=Owner(name=None))]),
    ],
)
def test_a_value_arrives_as_it_was_published(value: Pet) -> None:
    assert TOPIC.decode(TOPIC.encode(value)) == value


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(InternalError, match="colour"):
        TOPIC.encode(pet(colours=["blue"]))
