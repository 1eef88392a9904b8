"""Errors as OpenAI's API shapes them: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ensemw2s.errors import EnsemW2SError, nearest, shown

GONE = 499  # the status for a client that hung up: nobody reads it, the metrics count it
_TYPES = {401: "authentication_error", 404: "invalid_request_error", 429: "rate_limit_error"}
_FORMS = {  # where pydantic would tell of the first of several forms
    "prompt": "a text, a list of texts, a list of token ids, or a list of such lists; none empty, none mixed",
    "stop": "a text or a list of up to 16 texts",
    "messages": "a list of {role: system, developer, user or assistant, content: a text or a list of text parts}",
}


class ApiError(HTTPException):
    """A request that is refused, or failed.

    Args:
        status: of HTTP.
        message: one line for the user.
        param: the request's field it is about.
        code: for programs.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.param, self.code = param, code

    def body(self) -> dict[str, Any]:
        """JSON of the response."""
        kind = _TYPES.get(self.status_code, "server_error" if self.status_code >= 500 else "invalid_request_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """What is sent."""
        return JSONResponse(self.body(), self.status_code, self.headers)


def of_validation(problem: Mapping[str, Any], fields: Collection[str]) -> ApiError:
    """One line for the first thing that pydantic found wrong in a body.

    Args:
        problem: pydantic's.
        fields: that the body may have.
    """
    param = next((str(part) for part in problem["loc"][1:2] if part in fields or "extra" in problem["type"]), None)
    if isinstance(problem.get("input"), bytes):
        return ApiError(400, "the body is not read as JSON: send JSON, with Content-Type application/json")
    if problem["type"] == "extra_forbidden" and param is not None:
        return ApiError(400, f"unknown setting {shown(param)}: {nearest(param, fields)}", param=param)
    if problem["type"] == "missing" and len(problem["loc"]) < 3:
        return ApiError(400, f"{param or 'a JSON body'} is missing: give it", param=param)
    given = f"got {shown(problem['input'])}" if "input" in problem else problem["msg"]
    if param in _FORMS:
        return ApiError(400, f"{param} must be {_FORMS[param]}; {given}", param=param)
    return ApiError(400, f"{param or 'the body'}: {problem['msg']}; {given}", param=param)


def add_handlers(app: FastAPI) -> None:
    """Every error leaves the app in OpenAI's shape."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, ApiError):
            return error.response()
        if isinstance(error, EnsemW2SError):
            return ApiError(400, str(error)).response()
        if isinstance(error, HTTPException):
            code = "not_found" if error.status_code == 404 else None
            message = f"{request.method} {request.url.path}: {error.detail}"
            return ApiError(error.status_code, message, code=code, headers=error.headers).response()
        return ApiError(500, "the server failed on this request; its log says why").response()

    for kind in (HTTPException, EnsemW2SError, Exception):
        app.add_exception_handler(kind, refused)
