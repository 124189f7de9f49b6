"""A client of AWS for a function that has little memory."""

from typing import Any

from botocore.loaders import Loader
from botocore.session import get_session

_ENDPOINTS = "endpoints"


class _OneService(Loader):
    """The SDK's data files, but of the endpoints of all services, 8 MB as objects, only those of one are kept."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def load_data_with_path(self, name: str) -> tuple[Any, str]:
        data, path = super().load_data_with_path(name)
        if name == _ENDPOINTS:
            for partition in data["partitions"]:
                services = partition["services"]
                partition["services"] = {name: services[name] for name in (self._service,) if name in services}
        return data, path


def small_client(service: str) -> Any:
    """What `boto3.client` gives, in 8 MB less: half of it is boto3 itself, half is in `_OneService`."""
    session = get_session()
    session.register_component("data_loader", _OneService(service))
    return session.create_client(service)
