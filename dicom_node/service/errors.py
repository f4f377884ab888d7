"""What the service answers when it cannot do what was asked: always one shape, always a cure.

``{"error": "one sentence that names the thing", "cure": "one sentence"}``, also for what
FastAPI finds wrong by itself. Values that were sent are never repeated: they may be a patient's.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

DESCRIBED = "see the description of this path in /api/1/openapi.json"
_CURES = {
    404: ("there is no such path", "the paths are described in /api/1/openapi.json"),
    405: ("this path does not take this method", DESCRIBED),
}


class ErrorBody(BaseModel):
    """What is wrong, and what to do."""

    error: str
    cure: str


class ApiError(HTTPException):
    """A request that cannot be answered.

    Parameters
    ----------
    status: HTTP status, 4xx.
    error: one sentence that names the thing.
    cure: one sentence.
    """

    def __init__(self, status: int, error: str, cure: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, error, headers)
        self.error = error
        self.cure = cure


def error_response(error: ApiError) -> JSONResponse:
    """The answer that an error is."""
    body = {"error": error.error, "cure": error.cure}
    return JSONResponse(body, error.status_code, headers=dict(error.headers or {}))


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of `app` in the one shape."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, ApiError):
        return error_response(error)
    if not isinstance(error, HTTPException):
        raise error
    words, cure = _CURES.get(error.status_code, ("the request cannot be understood", DESCRIBED))
    return error_response(ApiError(error.status_code, words, cure, dict(error.headers or {})))


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    return error_response(ApiError(422, _in_words(error.errors()), DESCRIBED))


def _in_words(problems: Sequence[Any]) -> str:
    """The first problem: where it is, and what pydantic says of it.

    >>> _in_words([{"loc": ("body", "k"), "msg": "Input should be less than or equal to 20"}])
    'body.k: input should be less than or equal to 20'
    """
    if not problems:
        return "the request is not as described"
    where = ".".join(str(part) for part in problems[0]["loc"] if not isinstance(part, int) or part < 1000)
    message = str(problems[0]["msg"])
    return f"{where}: {message[:1].lower()}{message[1:]}"


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route for the OpenAPI document: the error body for each status.

    As content, not as a model: FastAPI would give a model the media type of the route's answer.
    """
    body = {"application/json": {"schema": ErrorBody.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": body} for status in statuses}
