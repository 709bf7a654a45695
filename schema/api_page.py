"""A page that shows the REST routes. It has no scripts, so it works without a network."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

Schema = Mapping[str, Any]


def api_page(app: FastAPI) -> APIRouter:
    """Return the route `/docs`, which shows the OpenAPI description of `app`."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs", response_class=HTMLResponse)
    async def docs() -> str:
        return render(app.openapi())

    return router


def render(api: Schema) -> str:
    """Return the page of an OpenAPI description."""
    title = escape(api["info"]["title"])
    body = [
        *(line for path, found in api["paths"].items() for line in _operations(path, found)),
        *(line for name, found in _schemas(api).items() for line in _schema(name, found)),
    ]
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>',
            f"<h1>{title}</h1>",
            f"<p>{escape(api['info'].get('description', ''))}</p>",
            '<p>For programs: <a href="openapi.json">openapi.json</a></p>',
            *body,
            "</html>",
        ]
    )


def _operations(path: str, operations: Schema) -> Iterator[str]:
    for method, operation in operations.items():
        yield f"<h2>{method.upper()} {escape(path)}</h2>"
        yield f"<p>{escape(operation.get('description', ''))}</p>"
        parameters = operation.get("parameters", [])
        if parameters:
            yield "<h3>Parameters</h3>"
            yield _table(_parameter(each) for each in parameters)
        for content in _contents(operation.get("requestBody", {})):
            yield f"<h3>Body</h3><p>{_type(content)}</p>"
        for status, response in operation["responses"].items():
            for content in _contents(response):
                yield f"<h3>Response {escape(status)}</h3><p>{_type(content)}</p>"


def _schema(name: str, schema: Schema) -> Iterator[str]:
    yield f'<h2 id="{escape(name)}">{escape(name)}</h2>'
    yield f"<p>{escape(schema.get('description', ''))}</p>"
    if "enum" in schema:
        yield f"<p>{_type({'enum': schema['enum']})}</p>"
    required = schema.get("required", ())
    yield _table(
        (
            key,
            _type(each),
            "required" if key in required else "optional",
            str(each.get("description", "")),
        )
        for key, each in _properties(schema).items()
    )


def _parameter(parameter: Schema) -> tuple[str, str, str, str]:
    needed = "required" if parameter.get("required") else "optional"
    described = str(parameter.get("description", ""))
    return parameter["name"], _type(parameter["schema"]), f"{needed}, {parameter['in']}", described


def _table(rows: Iterator[tuple[str, str, str, str]]) -> str:
    lines = [
        f"<tr><td><code>{escape(name)}</code><td>{kind}<td>{how}<td>{escape(described)}"
        for name, kind, how, described in rows
    ]
    return f"<table>{''.join(lines)}</table>" if lines else ""


def _type(schema: Schema) -> str:
    """Return the type that a JSON schema describes, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    return escape(schema.get("format") or schema.get("type") or "any JSON")


def _contents(part: Schema) -> Iterator[Schema]:
    for media in part.get("content", {}).values():
        yield media.get("schema", {})


def _schemas(api: Schema) -> Schema:
    found: Schema = api.get("components", {}).get("schemas", {})
    return found


def _properties(schema: Schema) -> Schema:
    found: Schema = schema.get("properties", {})
    return found
