"""Encodes values as JSON, and decodes them to equal values of the same types. Pure.

pydantic does most of the work. If a place allows several classes (a union, or a Strawberry
interface), pydantic takes the first class that fits. In these places the codec adds the name of the
class to the value, as `__typename`. It refuses a value that would still decode as another one.
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

from gqlnotify.codec import field_types, lazy_types
from gqlnotify.codec.difference import difference

TYPENAME = "__typename"

Schema = dict[str, Any]
"""pydantic's description of a type, a core schema."""

# The keys of a core schema whose values contain further schemas.
_NESTED = {
    *("schema", "choices", "fields", "definitions", "steps"),
    *("items_schema", "keys_schema", "values_schema", "extras_schema", "arguments_schema"),
    *("lax_schema", "strict_schema", "json_schema", "python_schema"),
}
_CLASSES = {"dataclass", "model"}
# pydantic builds one validator for each model and uses it wherever the model appears. It ignores
# `__typename`. Only this private argument turns it off, so `require_support` checks the argument.
_NOT_PREBUILT: Any = {"_use_prebuilt": False}


def require_support(
    validator: Callable[..., object] = SchemaValidator,
    serializer: Callable[..., object] = SchemaSerializer,
) -> None:
    """Check that pydantic takes the private argument that this module needs.

    Raises:
        ImportError: This version of pydantic does not take it.
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
    """A value can't be encoded or decoded. The text says where and why, without the value."""


def codec_of(type_: Any) -> "Codec":
    """Return the codec of a type. Hashable types share one, because building it is slow."""
    try:
        hash(type_)
    except TypeError:
        return Codec(type_)
    # `A | B == B | A`, but a value that fits both is decoded as the first. So the order matters,
    # and `repr` keeps it in the key of the cache.
    return _codec_of(type_, repr(type_))


# Bounded, because an application may create types at run time.
@lru_cache(maxsize=256)
def _codec_of(type_: Any, _spelling: str) -> "Codec":
    return Codec(type_)


def plain_json(value: Any) -> bytes:
    """Encode a value that has no declared type.

    Raises:
        Unfit: The JSON would decode as another value or type.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        payload, found = text.encode(), json.loads(text)
        _require_same(value, found)
    except Exception as error:
        raise Unfit(reason_of(error)) from None
    return payload


class Codec:
    """Encodes the values of one type as JSON, and decodes them."""

    def __init__(self, type_: Any) -> None:
        self._type = type_
        with suppress(PydanticUndefinedAnnotation, ImportError, KeyError):
            # The type may refer to a class that is defined or imported later. The first use tries
            # again.
            _ = self._coder

    def encode(self, value: Any) -> bytes:
        """Encode `value` as JSON.

        Raises:
            Unfit: The JSON would decode as another value or type.
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
        """Decode a payload that `encode` returned.

        Raises:
            Unfit: The payload does not fit the type.
        """
        coder = self._coder
        try:
            return coder.validator.validate_json(payload)
        except Exception as error:
            # `from None`, because the text of pydantic's error contains the published value.
            raise Unfit(reason_of(error)) from None

    @cached_property
    def _coder(self) -> "_Coder":
        field_types.teach_pydantic()
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
        """Return the fields of an object as values that JSON has."""
        found = self.serializer.to_python(value, mode="json", warnings=False)
        if not isinstance(found, dict):
            raise PydanticSerializationUnexpectedValue("None of the classes")
        return found

    def read(self, fields: Mapping[str, Any]) -> Any:
        """Return the object with these fields."""
        # Through JSON: for Python values pydantic has other rules than for JSON.
        return self.validator.validate_json(to_json(fields))


class _Tagging:
    """Changes a core schema: values carry their class name wherever it allows several classes."""

    def __init__(self, schema: Any) -> None:
        self.needed = False
        self._definitions: dict[str, Schema] = {
            each["ref"]: each for each in schema.get("definitions", ())
        }
        self.schema = self._convert(schema)

    def whole(self, schema: Schema) -> Schema:
        """Return a part of the schema with the definitions that it may refer to."""
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
        # A name can't tell apart two forms of one generic class, or two classes of the same name.
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
        # pydantic wraps a class in the validators that it defines.
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
        """Encodes and decodes the class. Built on first use: a class may refer to itself."""
        converted = {k: self._tagging._convert_child(k, v) for k, v in self._schema.items()}
        return _Coder.of(self._tagging.whole(converted))


class _Named:
    """Encodes and decodes objects of several classes, which their names tell apart."""

    def __init__(self, members: Mapping[Any, _Member], interfaces: Iterable[Any]) -> None:
        self._members = members
        self._interfaces = interfaces

    def write(self, value: object) -> dict[str, Any]:
        """Return the fields of `value` and the name of its class."""
        name = _name_of(type(value))
        for class_, coder in self._called(name):
            if class_ is type(value):
                return {TYPENAME: name, **coder.fields(value)}
        raise PydanticSerializationUnexpectedValue("None of the classes")

    def read(self, found: Any) -> Any:
        """Return the object that `found`, decoded from JSON, describes."""
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
        """Return the object of the only class that these fields fit.

        An event has no `__typename` if it was published before its type became a union.
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
        """Yield the classes of this name, or all classes if it is None."""
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
    # `vars`, because a subclass inherits the attribute without being a type of the schema.
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
    """Return a path in a value as text. What may be a mapping's key, and so data, becomes `*`."""
    return ".".join(
        str(x) if isinstance(x, int) or str(x).isidentifier() else "*" for x in location
    )
