"""AWS's own description of a service, as botocore ships it: what a request must be and what a response may hold."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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

    def routed(self, method: str, path: str, query: Mapping[str, Sequence[str]]) -> tuple[str, Document]:
        """The operation of a REST request, and the members of its input that the address holds.

        Raises:
            ApiError: `UnknownOperationException`.
        """
        for name in self._model.operation_names:
            operation = self._model.operation_model(name)
            address = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(operation.http["requestUri"]))
            match = re.fullmatch(address, path)
            if match and method == operation.http["method"]:
                return name, match.groupdict() | _queried(operation.input_shape, query)
        raise ApiError("UnknownOperationException", f"{self._service} has no {method} {path}.")

    def from_pascal_case(self, operation: str, request: Document) -> Document:
        """A request as Step Functions and CloudFormation spell it, in the model's own spelling."""
        shape = self._operation(operation).input_shape
        respelt: Document = _respelt(shape, request, lambda name: name[:1].lower() + name[1:])
        return respelt

    def to_pascal_case(self, operation: str, answer: Document) -> Document:
        """A response as Step Functions spells it."""
        limited = self.response(operation, answer)
        shape = self._operation(operation).output_shape
        respelt: Document = _respelt(shape, limited, lambda name: name[:1].upper() + name[1:])
        return respelt

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


def _queried(shape: StructureShape | None, query: Mapping[str, Sequence[str]]) -> Document:
    """The members of an input that its address's query holds, in the types that they have."""
    found: Document = {}
    for name, member in shape.members.items() if shape is not None else ():
        values = query.get(member.serialization.get("name", name), ())
        if values and member.serialization.get("location") == "querystring":
            found[name] = list(values) if isinstance(member, ListShape) else _typed(member, values[0])
    return found


def _typed(shape: Shape, text: str) -> object:
    try:
        return int(text) if shape.type_name in ("integer", "long") else text
    except ValueError:
        return text  # for the check to refuse


def _respelt(shape: Shape | None, value: Any, spelt: Callable[[str], str]) -> Any:
    """`value` with the names of structures' members, in either spelling, `spelt`; keys of maps stay as they are."""
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        members = {name.lower(): member for name, member in shape.members.items()}
        return {spelt(name): _respelt(members.get(name.lower()), item, spelt) for name, item in value.items()}
    if isinstance(shape, ListShape) and isinstance(value, list):
        return [_respelt(shape.member, item, spelt) for item in value]
    if isinstance(shape, MapShape) and isinstance(value, dict):
        return {name: _respelt(shape.value, item, spelt) for name, item in value.items()}
    return value


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
