import re

import pytest
from graphql import build_schema, parse, validate

from schema.app import schema
from schema.export import SDL, sdl
from tests.schema.client import OPERATIONS, operation
from tests.servers import ROOT

README = ROOT / "README.md"


def test_the_exported_schema_is_the_one_that_is_served() -> None:
    assert SDL.read_text(encoding="utf-8") == sdl(), "Run: python -m schema.export"


@pytest.mark.parametrize("name", sorted(path.stem for path in OPERATIONS.glob("*.graphql")))
def test_every_stored_operation_is_valid_and_has_its_files_name(name: str) -> None:
    document = parse(operation(name))
    assert validate(build_schema(schema.as_str()), document) == []
    names = [getattr(definition, "name", None) for definition in document.definitions]
    assert name in [each.value for each in names if each is not None]


def test_every_field_has_a_stored_operation() -> None:
    roots = (schema._schema.query_type, schema._schema.mutation_type)
    fields = {name for root in roots if root for name in root.fields}
    assert schema._schema.subscription_type is not None
    fields |= set(schema._schema.subscription_type.fields)
    assert fields == {path.stem for path in OPERATIONS.glob("*.graphql")}


def test_the_operations_of_the_readme_are_valid() -> None:
    table = README.read_text().partition("| operation | what it does |")[2].partition("\n\n")[0]
    operations = re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)
    assert len(operations) >= 7
    for each in operations:
        assert validate(build_schema(schema.as_str()), parse(each)) == [], each
