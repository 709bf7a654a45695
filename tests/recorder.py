"""A Strawberry extension that writes down what is done to it."""

from collections.abc import Iterator
from typing import Any

from strawberry.extensions import SchemaExtension


class Recorder(SchemaExtension):
    record: list[str]

    def on_operation(self) -> Iterator[None]:
        self.record.append("operation begins")
        try:
            yield
        finally:
            self.record.append("operation ends")

    def on_validate(self) -> Iterator[None]:
        self.record.append("validate")
        yield

    def on_parse(self) -> Iterator[None]:
        self.record.append("parse")
        yield

    def on_execute(self) -> Iterator[None]:
        self.record.append("execute begins")
        yield
        self.record.append("execute ends")

    def on_stream_result(self, result: Any) -> Iterator[None]:
        self.record.append(f"result {result.data}")
        yield
        self.record.append("result sent")

    def resolve(self, _next: Any, root: Any, info: Any, *args: Any, **kwargs: Any) -> Any:
        self.record.append(f"resolve {info.field_name}")
        return _next(root, info, *args, **kwargs)

    def get_results(self) -> dict[str, Any]:
        return {"recorded": True}


def recording() -> tuple[list[str], type[SchemaExtension]]:
    record: list[str] = []
    return record, type("Recording", (Recorder,), {"record": record})
