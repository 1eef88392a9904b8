"""Bodies of requests: JSON of a known form.

FastAPI's own way solves dependencies and parses media types anew for every request, which is a good part of what a
short answer of a small model costs. Routes of this class are described as all others, and read their bodies in one go.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from ensemw2s.server.errors import GONE, ApiError, of_validation

Body = TypeVar("Body", bound=BaseModel)


class BodyRoute(APIRoute):
    """A route of an endpoint ``(body, request)`` whose ``body`` is annotated with its form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Hook of FastAPI: what answers a request."""
        endpoint: Any = self.endpoint
        form: type[BaseModel] = typing.get_type_hints(endpoint)["body"]

        async def answer(request: Request) -> Response:
            found: Response = await endpoint(await read_body(request, form), request)
            return found

        return answer


async def read_body(request: Request, form: type[Body]) -> Body:
    """A request's body.

    Args:
        request: with JSON, and with a Content-Type that says so.
        form: of the body.

    Raises:
        ApiError: 400, no JSON, or not of this form; 413, too large; 499, the client hung up.
    """
    try:
        given = await request.body()
    except ClientDisconnect as error:
        raise ApiError(GONE, "the client hung up") from error
    if given and not _tells_json(request.headers.get("content-type", "")):
        raise of_validation({"type": "bytes", "loc": ("body",), "input": given}, form.model_fields)
    data = _parsed(given) if given else None
    if data is None:
        raise of_validation({"type": "missing", "loc": ("body",)}, form.model_fields)
    try:
        return form.model_validate(data, from_attributes=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise of_validation({**first, "loc": ("body", *first["loc"])}, form.model_fields) from None


def _tells_json(content_type: str) -> bool:
    """Whether it is application/json, or application/... +json, whatever follows."""
    kind, _, name = content_type.partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (name == "json" or name.endswith("+json"))


def _parsed(given: bytes) -> Any:
    try:
        return json.loads(given)
    except json.JSONDecodeError as error:
        said = error.msg
    except UnicodeDecodeError:
        said = "it is no Unicode text"
    except ValueError:
        said = "a number has too many digits"
    except RecursionError:
        said = "it is nested too deeply"
    raise ApiError(400, f"the body is not JSON: {said}")
