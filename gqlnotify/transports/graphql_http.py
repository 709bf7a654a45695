"""GraphQL over HTTP as its draft has it: media types, status codes, and errors as JSON.

Strawberry's views do the work; what is here mends where they stray from the draft.
"""

from typing import Any

from cross_web import AsyncHTTPRequestAdapter, HTTPException
from fastapi import Request, Response
from strawberry import Schema
from strawberry.fastapi import GraphQLRouter as StrawberryRouter
from strawberry.fastapi.context import CustomContext
from strawberry.http import GraphQLHTTPResponse, GraphQLRequestData
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types import ExecutionResult
from strawberry.types.unset import UNSET
from typing_extensions import TypeVar

from gqlnotify import execution
from gqlnotify.errors import BadUserInput, NotifyError, Unauthenticated
from gqlnotify.protocol.messages import strict_json
from gqlnotify.transports.http import GRAPHQL_RESPONSE, negotiate

Context = TypeVar("Context", default=CustomContext)
RootValue = TypeVar("RootValue", default=None)


class GraphQLOverHTTP(StrawberryRouter[Context, RootValue]):
    """Strawberry's router, answering requests as the draft says."""

    schema: Schema

    async def run(self, request: Any, context: Any = UNSET, root_value: Any = UNSET) -> Any:
        """Serve one request, and answer a bad one in the media type that the client prefers."""
        try:
            return await super().run(request, context=context, root_value=root_value)
        except HTTPException as error:
            return self._refuse(request, _status(error), [{"message": error.reason}])
        except NotifyError as error:
            return self._refuse(request, error.http_status, [error.formatted()])

    async def execute_single(
        self,
        request: Request,
        request_adapter: AsyncHTTPRequestAdapter,
        sub_response: Response,
        context: Any,
        root_value: Any,
        request_data: GraphQLRequestData,
    ) -> ExecutionResult:
        """Execute one operation, once it is clear which one.

        A well-formed request is answered even where it asks for what can't be had: an unknown
        operation, or a subscription from a transport that does not stream.
        """
        if execution.is_ambiguous(request_data.query, request_data.operation_name):
            return execution.error_result(BadUserInput(execution.AMBIGUOUS))
        try:
            return await super().execute_single(
                request=request,
                request_adapter=request_adapter,
                sub_response=sub_response,
                context=context,
                root_value=root_value,
                request_data=request_data,
            )
        except HTTPException as error:
            if _is_well_formed(error, request_adapter.method):
                return execution.error_result(BadUserInput(error.reason))
            raise

    async def parse_http_body(
        self, request: AsyncHTTPRequestAdapter
    ) -> GraphQLRequestData | list[GraphQLRequestData]:
        """Read the request's parameters, and refuse those of the wrong type."""
        try:
            data = await super().parse_http_body(request)
        except AttributeError as error:
            # Strawberry takes whatever JSON it gets for an object, and asks it for its members.
            raise HTTPException(400, "A GraphQL request is a JSON object") from error
        for single in data if isinstance(data, list) else [data]:
            if not isinstance(single.operation_name, str | None):
                raise HTTPException(400, "The `operationName` must be a string or null")
        return data

    def parse_json(self, data: str | bytes) -> Any:
        """Parse JSON.

        Raises:
            HTTPException: it is none, or nested too deeply; status 400.
        """
        try:
            return self.decode_json(data)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, "Unable to parse request body as JSON") from error

    def decode_json(self, data: str | bytes) -> object:
        """Parse JSON as its RFC has it. See Strawberry's documentation to override it.

        Raises:
            ValueError: it is none, or nested too deeply.
        """
        return strict_json(data)

    async def get_sub_response(self, request: Request) -> Response:
        """Return FastAPI's response for headers and cookies, marked with the media type."""
        response = await super().get_sub_response(request)
        response.media_type = negotiate(request.headers.get("accept"))
        return response

    def create_response(
        self,
        response_data: GraphQLHTTPResponse | list[GraphQLHTTPResponse],
        sub_response: Response,
    ) -> Response:
        """Return the answer, in the media type that the client prefers."""
        if sub_response.media_type != GRAPHQL_RESPONSE:
            return super().create_response(response_data, sub_response)
        refused = isinstance(response_data, dict) and execution.is_request_error(response_data)
        if isinstance(response_data, dict) and refused:
            response_data = {k: v for k, v in response_data.items() if k != "data"}  # type: ignore[assignment]
        response = super().create_response(response_data, sub_response)
        response.headers["content-type"] = f"{GRAPHQL_RESPONSE}; charset=utf-8"
        if refused and not sub_response.status_code:
            response.status_code = 400
        return response

    def _refuse(self, request: Request, status: int, errors: list[dict[str, Any]]) -> Response:
        body = self.encode_json({"errors": errors})
        media_type = negotiate(request.headers.get("accept"))
        response = Response(body, status_code=status, media_type=media_type)
        if status == Unauthenticated.http_status:
            response.headers["www-authenticate"] = "Bearer"
        if status == 405:
            response.headers["allow"] = "POST"
        return response


def _status(error: HTTPException) -> int:
    if isinstance(error.__cause__, InvalidOperationTypeError):
        return 405
    return 415 if error.reason == "Unsupported content type" else int(error.status_code)


def _is_well_formed(error: HTTPException, method: str) -> bool:
    if isinstance(error.__cause__, InvalidOperationTypeError):
        return method == "POST"
    return isinstance(error.__cause__, CannotGetOperationTypeError)
