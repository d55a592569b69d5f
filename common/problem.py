"""What an error is over HTTP. As common/models.py, for processes that have time."""

from __future__ import annotations

from typing import Annotated, Literal

from common.model_base import About, Model


class Fault(Model):
    """One fault of a request."""

    path: str
    message: str


class Problem(Model):
    """An error: RFC 9457, with our stable code, the way out and the faults of a request."""

    type: Literal["about:blank"] = "about:blank"
    code: Annotated[str, About("what a program acts on")]
    title: str
    status: int
    detail: Annotated[str, About("what could not be done, to what, and why: for people")]
    hint: Annotated[str | None, About("the way out")] = None
    step: Annotated[str | None, About("the system call or step of a start that failed")] = None
    errno: Annotated[int | None, About("its error number on Linux")] = None
    rule: Annotated[str | None, About("the rule that refused")] = None
    request: Annotated[str | None, About("the id by which the daemon's logs tell of this request")] = None
    fields: Annotated[tuple[Fault, ...] | None, About("the faults of a request, at most 20")] = None
