"""AWS's own description of a service, as botocore ships it: what a request must be and what a response may hold."""

import functools
import re
from collections.abc import Iterator
from typing import Any

from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, OperationModel, Shape, StructureShape
from botocore.model import ServiceModel as BotocoreModel
from botocore.validate import ParamValidator

Document = dict[str, Any]


class ApiError(Exception):
    """A refusal that the caller of the API gets to see.

    Attributes:
        code: the error's name, as the SDK shows it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ServiceModel:
    """The operations of one service.

    Args:
        service: the service's name in botocore, such as `sagemaker`.
    """

    def __init__(self, service: str) -> None:
        self._service = service

    @functools.cached_property
    def _model(self) -> BotocoreModel:
        return BotocoreModel(Loader().load_service_model(self._service, "service-2"), self._service)

    def check(self, operation: str, request: Document) -> None:
        """Refuse a request that AWS refuses for its form alone.

        Raises:
            ApiError: `UnknownOperationException`, or `ValidationException` with every reason.
        """
        shape = self._operation(operation).input_shape
        if shape is None:
            return
        report = ParamValidator().validate(request, shape)
        reasons = [report.generate_report()] if report.has_errors() else list(_violations(shape, request, ""))
        if reasons:
            raise ApiError("ValidationException", "\n".join(reasons))

    def response(self, operation: str, answer: Document) -> Document:
        """`answer` without the members that the operation's response does not have."""
        shape = self._operation(operation).output_shape
        limited: Document = _limited(shape, answer) if shape is not None else {}
        return limited

    def names_error(self, operation: str, code: str) -> bool:
        """Whether the model names this error for the operation."""
        return any(error.name == code for error in self._operation(operation).error_shapes)

    def _operation(self, operation: str) -> OperationModel:
        if operation not in self._model.operation_names:
            raise ApiError("UnknownOperationException", f"{self._service} has no operation {operation!r}.")
        return self._model.operation_model(operation)


def _violations(shape: Shape, value: Any, where: str) -> Iterator[str]:
    """What botocore leaves to the service: patterns, upper bounds and enumerations."""
    pattern, largest, choices = (shape.metadata.get(name) for name in ("pattern", "max", "enum"))
    if choices and value not in choices:
        yield f"{where} is {value!r}; it must be one of {', '.join(choices)}"
    if largest is not None and (len(value) if isinstance(value, str | list | dict) else value) > largest:
        yield f"{where} is longer or larger than {largest}"
    if pattern and isinstance(value, str) and not _fits(pattern, value):
        yield f"{where} is {value!r}; it must match {pattern}"
    for child, item, name in _children(shape, value):
        yield from _violations(child, item, f"{where}.{name}".lstrip("."))


def _fits(pattern: str, value: str) -> bool:
    try:
        return re.fullmatch(pattern, value) is not None
    except re.error:  # Java's \p{...}, which Python does not know
        return True


def _children(shape: Shape, value: Any) -> Iterator[tuple[Shape, Any, str]]:
    if isinstance(shape, StructureShape):
        for name, item in value.items():
            yield shape.members[name], item, name
    elif isinstance(shape, ListShape):
        for index, item in enumerate(value):
            yield shape.member, item, f"[{index}]"
    elif isinstance(shape, MapShape):
        for name, item in value.items():
            yield shape.key, name, f"[{name}]"
            yield shape.value, item, name


def _limited(shape: Shape, value: Any) -> Any:
    if isinstance(shape, StructureShape):
        return {name: _limited(shape.members[name], item) for name, item in value.items() if name in shape.members}
    if isinstance(shape, ListShape):
        return [_limited(shape.member, item) for item in value]
    return value
