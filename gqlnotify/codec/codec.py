"""Values as JSON and back to what they were, type included. Pure.

pydantic does most of it. Where several classes may stand in one place, in a union or for a
Strawberry interface, it would take the first one that fits: there the name of the class travels
with the value, as `__typename`. Whatever would still read back as something else is refused.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import pydantic
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation
from pydantic_core import (
    PydanticCustomError,
    PydanticSerializationError,
    PydanticSerializationUnexpectedValue,
    SchemaSerializer,
    SchemaValidator,
    core_schema,
    to_json,
)

from gqlnotify.codec import lazy_types
from gqlnotify.codec.difference import difference

TYPENAME = "__typename"

Schema = dict[str, Any]
"""A core schema of pydantic's, as it describes a type."""

_NESTED = {
    *("schema", "choices", "fields", "definitions", "steps"),
    *("items_schema", "keys_schema", "values_schema", "extras_schema", "arguments_schema"),
    *("lax_schema", "strict_schema", "json_schema", "python_schema"),
}
_CLASSES = {"dataclass", "model"}
# The validator that a model keeps for itself does not read the names of classes. Only this private
# argument turns it off, so it is checked at import.
_NOT_PREBUILT: Any = {"_use_prebuilt": False}


def require_support(
    validator: Callable[..., object] = SchemaValidator,
    serializer: Callable[..., object] = SchemaSerializer,
) -> None:
    """Check that pydantic can build validators and serializers as this module needs them.

    Raises:
        ImportError: it can't.
    """
    try:
        for build in (validator, serializer):
            build(core_schema.any_schema(), **_NOT_PREBUILT)
    except TypeError as error:
        raise ImportError(
            f"gqlnotify does not work with pydantic {pydantic.VERSION}: install one of the "
            "versions that gqlnotify's own requirements name"
        ) from error


require_support()


class Unfit(ValueError):
    """A value can't travel; the text says where and why, without the value."""


def codec_of(type_: Any) -> "Codec":
    """Return the codec of a type, the same one each time."""
    try:
        hash(type_)
    except TypeError:
        return Codec(type_)
    # `A | B == B | A`, but what both accept is read as the first: so the order counts.
    return _codec_of(type_, repr(type_))


@lru_cache(maxsize=256)
def _codec_of(type_: Any, _spelling: str) -> "Codec":
    return Codec(type_)


def plain_json(value: Any) -> bytes:
    """Return as JSON what has no declared type.

    Raises:
        Unfit: it would not read back as what it is.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        payload, found = text.encode(), json.loads(text)
        _require_same(value, found)
    except Exception as error:
        raise Unfit(reason_of(error)) from None
    return payload


class Codec:
    """Turns the values of one type into JSON and back."""

    def __init__(self, type_: Any) -> None:
        self._type = type_
        with suppress(PydanticUndefinedAnnotation, ImportError, KeyError):
            # A class that is defined or imported only later is looked for at the first use.
            _ = self._coder

    def encode(self, value: Any) -> bytes:
        """Return `value` as JSON.

        Raises:
            Unfit: it would not read back as what it is.
        """
        coder = self._coder
        try:
            payload: bytes = coder.serializer.to_json(value, warnings=False)
            found = coder.validator.validate_json(payload)
            _require_same(value, found)
        except Exception as error:
            raise Unfit(reason_of(error)) from None
        return payload

    def decode(self, payload: bytes) -> Any:
        """Return the value that `encode` made `payload` from.

        Raises:
            Unfit: the payload is of another type.
        """
        coder = self._coder
        try:
            return coder.validator.validate_json(payload)
        except Exception as error:
            # Without its cause: pydantic's text holds what was published.
            raise Unfit(reason_of(error)) from None

    @cached_property
    def _coder(self) -> "_Coder":
        lazy_types.teach_pydantic()
        adapter: TypeAdapter[Any] = TypeAdapter(self._type)
        if not adapter.pydantic_complete:
            names = lazy_types.names_in(self._type)
            adapter.rebuild(raise_errors=True, _types_namespace=names)
        tagging = _Tagging(adapter.core_schema)
        if not tagging.needed:
            return _Coder(adapter.validator, adapter.serializer)
        return _Coder.of(tagging.schema)


@dataclass(frozen=True, slots=True)
class _Coder:
    validator: Any
    serializer: Any

    @classmethod
    def of(cls, schema: Schema) -> "_Coder":
        made: Any = schema
        return cls(SchemaValidator(made, **_NOT_PREBUILT), SchemaSerializer(made, **_NOT_PREBUILT))

    def fields(self, value: object) -> dict[str, Any]:
        """Return the fields of an object as JSON can spell them."""
        found = self.serializer.to_python(value, mode="json", warnings=False)
        if not isinstance(found, dict):
            raise PydanticSerializationUnexpectedValue("None of the classes")
        return found

    def read(self, fields: Mapping[str, Any]) -> Any:
        """Return the object with these fields."""
        # From JSON and not from Python's values, for which pydantic has other rules.
        return self.validator.validate_json(to_json(fields))


class _Tagging:
    """Puts the name of the class where several may stand."""

    def __init__(self, schema: Any) -> None:
        self.needed = False
        self._definitions: dict[str, Schema] = {
            each["ref"]: each for each in schema.get("definitions", ())
        }
        self.schema = self._convert(schema)

    def whole(self, schema: Schema) -> Schema:
        """Return a part of the schema so that it can stand alone."""
        definitions = self.schema.get("definitions", [])
        return {"type": "definitions", "schema": schema, "definitions": definitions}

    def _convert(self, schema: Schema) -> Schema:
        if "serialization" in schema:
            return schema
        if schema["type"] == "union":
            return self._convert_union(schema)
        if schema["type"] in _CLASSES and _is_interface(schema["cls"]):
            return self._by_name([schema], schema)
        return {key: self._convert_child(key, value) for key, value in schema.items()}

    def _convert_child(self, key: str, value: Any) -> Any:
        if key not in _NESTED:
            return value
        if isinstance(value, dict) and isinstance(value.get("type"), str):
            return self._convert(value)
        if isinstance(value, dict):
            return {name: self._convert_item(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._convert_item(item) for item in value]
        return value

    def _convert_item(self, item: Any) -> Any:
        if isinstance(item, tuple):
            return (self._convert_item(item[0]), *item[1:])
        return self._convert(item) if isinstance(item, dict) else item

    def _convert_union(self, schema: Schema) -> Schema:
        choices = [(choice, self._class_of(choice)) for choice in _flat(schema)]
        objects = [choice for choice, class_ in choices if class_ is not None]
        classes = [class_ for _, class_ in choices if class_ is not None]
        several = len(objects) > 1 or any(map(_is_interface, classes))
        # Two forms of one generic class, or two classes of one name, can't be told apart by it.
        if not several or len({*map(_name_of, classes)}) < len(classes):
            return {key: self._convert_child(key, value) for key, value in schema.items()}
        others = [self._convert(choice) for choice, class_ in choices if class_ is None]
        if not others:
            return self._by_name(objects, schema)
        return {**schema, "choices": [self._by_name(objects, {}), *others]}

    def _class_of(self, schema: Schema) -> Any:
        if schema["type"] == "definition-ref":
            return self._class_of(self._definitions[schema["schema_ref"]])
        if schema["type"] in _CLASSES:
            return None if schema.get("root_model") else schema["cls"]
        # A class with validators of its own is wrapped in them.
        is_wrapped = schema["type"].startswith("function-") and "schema" in schema
        return self._class_of(schema["schema"]) if is_wrapped else None

    def _by_name(self, objects: list[Schema], replaced: Schema) -> Schema:
        self.needed = True
        members = {}
        interfaces = []
        for schema in objects:
            class_ = self._class_of(schema)
            if _is_interface(class_):
                interfaces.append(class_)
            else:
                members[class_] = _Member(self, schema)
        named = _Named(members, interfaces)
        made: Any = core_schema.no_info_plain_validator_function(
            named.read, serialization=core_schema.plain_serializer_function_ser_schema(named.write)
        )
        return {**made, "ref": replaced["ref"]} if "ref" in replaced else made


class _Member:
    """One of the classes of a union."""

    def __init__(self, tagging: _Tagging, schema: Schema) -> None:
        self._tagging = tagging
        self._schema = schema

    @cached_property
    def coder(self) -> _Coder:
        """What turns it into JSON and back."""
        converted = {k: self._tagging._convert_child(k, v) for k, v in self._schema.items()}
        return _Coder.of(self._tagging.whole(converted))


class _Named:
    """Objects of several classes, told apart by the names of these."""

    def __init__(self, members: Mapping[Any, _Member], interfaces: Iterable[Any]) -> None:
        self._members = members
        self._interfaces = interfaces

    def write(self, value: object) -> dict[str, Any]:
        """Return what `value` is in JSON."""
        name = _name_of(type(value))
        for class_, coder in self._called(name):
            if class_ is type(value):
                return {TYPENAME: name, **coder.fields(value)}
        raise PydanticSerializationUnexpectedValue("None of the classes")

    def read(self, found: Any) -> Any:
        """Return the object that JSON describes."""
        if not isinstance(found, dict):
            raise PydanticCustomError("object_expected", "Neither of the classes")
        fields = {name: value for name, value in found.items() if name != TYPENAME}
        if TYPENAME not in found:
            return self._guess(fields)
        coders = [coder for _, coder in self._called(found[TYPENAME])]
        if len(coders) != 1:
            raise PydanticCustomError("unknown_typename", "No single class of this name")
        return coders[0].read(fields)

    def _guess(self, fields: Mapping[str, Any]) -> Any:
        """Return the object of the one class that these fields fit.

        Events that were published when the type was no union yet have no name in them.
        """
        fitting = [(coder, value) for coder, value in self._attempts(fields)]
        if len(fitting) > 1:
            exactly = [pair for pair in fitting if pair[0].fields(pair[1]).keys() == fields.keys()]
            fitting = exactly or fitting
        if len(fitting) != 1:
            raise PydanticCustomError("ambiguous", "Not exactly one of the classes fits")
        return fitting[0][1]

    def _attempts(self, fields: Mapping[str, Any]) -> Iterator[tuple[_Coder, Any]]:
        for _, coder in self._called(None):
            try:
                yield coder, coder.read(fields)
            except ValidationError:
                continue

    def _called(self, name: str | None) -> Iterator[tuple[Any, _Coder]]:
        """Yield the classes of this name, or all."""
        for class_, member in self._members.items():
            if name is None or _name_of(class_) == name:
                yield class_, member.coder
        for interface in self._interfaces:
            for class_ in _implementations(interface):
                if name is None or _name_of(class_) == name:
                    yield class_, codec_of(class_)._coder


def _flat(union: Schema) -> Iterator[Schema]:
    for choice in union["choices"]:
        schema = choice[0] if isinstance(choice, tuple) else choice
        if schema["type"] == "union" and "serialization" not in schema:
            yield from _flat(schema)
        else:
            yield schema


def _definition_of(class_: Any) -> Any:
    # Its own: a subclass inherits the attribute, and is none of the schema's types by that.
    return vars(class_).get("__strawberry_definition__")


def _is_interface(class_: Any) -> bool:
    definition = _definition_of(class_)
    return definition is not None and bool(definition.is_interface)


def _name_of(class_: Any) -> str:
    definition = _definition_of(class_)
    return str(getattr(definition, "name", None) or class_.__name__)


def _implementations(interface: Any) -> Iterator[Any]:
    for class_ in interface.__subclasses__():
        if _definition_of(class_) is not None and not _is_interface(class_):
            yield class_
        yield from _implementations(class_)


def _require_same(published: Any, read: Any) -> None:
    different = difference(published, read)
    if different is not None:
        place = f" at {path_of(different.path)}" if different.path else ""
        raise Unfit(f"{different.published}{place} reads back as {different.read}")


def reason_of(error: Exception) -> str:
    """Return where and why a value was refused, without the value itself."""
    if isinstance(error, Unfit):
        return str(error)
    if isinstance(error, PydanticSerializationError):
        return "it can't be turned into JSON"
    if not isinstance(error, ValidationError):
        return type(error).__name__
    found = error.errors(include_input=False, include_context=False, include_url=False)
    return ", ".join(f"{path_of(each['loc'])} {each['type']}".lstrip() for each in found[:5])


def path_of(location: Iterable[object]) -> str:
    """Spell a place in a value; what may be a key of a mapping, and so data, becomes `*`."""
    return ".".join(
        str(x) if isinstance(x, int) or str(x).isidentifier() else "*" for x in location
    )
