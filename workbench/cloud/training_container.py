"""The contract of a SageMaker training container in script mode, kept by a folder and a subprocess.

What a script sees is that of https://github.com/aws/sagemaker-training-toolkit: its source bundle unpacked, its
hyperparameters as arguments and as `SM_HP_*`, its channels as folders. The script runs with the emulator's interpreter
and packages: a `requirements.txt` in the bundle is not installed.
"""

import json
import os
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HOST = "algo-1"
_FOR_THE_CONTAINER = "sagemaker_"


class ContainerError(Exception):
    """The job's request or bundle cannot be run in script mode."""


@dataclass(frozen=True)
class Container:
    """The folders of one job, laid out below `root` as below `/opt/ml` in the container."""

    root: Path

    @property
    def code(self) -> Path:
        return self.root / "code"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def output_data(self) -> Path:
        return self.root / "output" / "data"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def input_config(self) -> Path:
        return self.root / "input" / "config"

    def channel(self, name: str) -> Path:
        return self.root / "input" / "data" / name

    def lay_out(self, request: Mapping[str, Any]) -> None:
        """Make the folders and write the configuration files that a container starts with."""
        for folder in (self.code, self.model, self.output_data, self.temporary, self.input_config):
            folder.mkdir(parents=True)
        for channel in channels(request):
            self.channel(channel).mkdir(parents=True)
        self._configure("hyperparameters", request.get("HyperParameters", {}))
        self._configure("inputdataconfig", {each["ChannelName"]: each for each in request.get("InputDataConfig", [])})
        self._configure("resourceconfig", {"current_host": _HOST, "hosts": [_HOST]})

    def _configure(self, name: str, content: object) -> None:
        (self.input_config / f"{name}.json").write_text(json.dumps(content))

    def unpack(self, bundle: Path) -> None:
        """Unpack the source bundle.

        Raises:
            ContainerError: it is no tar archive, or a member would land outside.
        """
        try:
            with tarfile.open(bundle) as archive:
                archive.extractall(self.code, filter="data")
        except tarfile.TarError as error:
            raise ContainerError(f"The source bundle cannot be unpacked: {error}") from error

    def command(self, request: Mapping[str, Any]) -> list[str]:
        """The script and its arguments, to be run in `code`."""
        return [sys.executable, script(request), *arguments(hyperparameters(request))]

    def environment(self, request: Mapping[str, Any], arn: str, inherited: Mapping[str, str]) -> dict[str, str]:
        """The script's variables: `inherited`, then the request's own, then what the container sets."""
        name, users, entry = request["TrainingJobName"], hyperparameters(request), script(request)
        return {
            **inherited,
            **request.get("Environment", {}),
            **{f"SM_CHANNEL_{channel.upper()}": str(self.channel(channel)) for channel in channels(request)},
            **{f"SM_HP_{key.upper()}": _as_variable(value) for key, value in users.items()},
            "SM_HPS": _as_variable(users),
            "SM_USER_ARGS": _as_variable(arguments(users)),
            "SM_CHANNELS": _as_variable(channels(request)),
            "SM_USER_ENTRY_POINT": entry,
            "SM_MODULE_NAME": entry.removesuffix(".py"),
            "SM_MODULE_DIR": str(self.code),
            "SM_MODEL_DIR": str(self.model),
            "SM_INPUT_DIR": str(self.root / "input"),
            "SM_INPUT_CONFIG_DIR": str(self.input_config),
            "SM_OUTPUT_DIR": str(self.root / "output"),
            "SM_OUTPUT_DATA_DIR": str(self.output_data),
            "SM_CURRENT_HOST": _HOST,
            "SM_HOSTS": _as_variable([_HOST]),
            "SM_NUM_CPUS": str(os.cpu_count() or 1),
            "SM_NUM_GPUS": "0",
            "TRAINING_JOB_NAME": name,
            "TRAINING_JOB_ARN": arn,
            "PYTHONPATH": str(self.code),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.temporary),
        }


def channels(request: Mapping[str, Any]) -> list[str]:
    """The names of the request's channels, sorted."""
    return sorted(channel["ChannelName"] for channel in request.get("InputDataConfig", []))


def script(request: Mapping[str, Any]) -> str:
    """The script, relative to the bundle's root.

    Raises:
        ContainerError: the request is not for script mode.
    """
    return _for_the_container(request, "sagemaker_program")


def bundle_uri(request: Mapping[str, Any]) -> str:
    """Where the source bundle lies.

    Raises:
        ContainerError: the request is not for script mode.
    """
    return _for_the_container(request, "sagemaker_submit_directory")


def _for_the_container(request: Mapping[str, Any], key: str) -> str:
    value = _decoded(request.get("HyperParameters", {}).get(key, ""))
    if not value or not isinstance(value, str):
        raise ContainerError(f"HyperParameters name no {key}: only script mode runs on the embedded cloud.")
    return value


def hyperparameters(request: Mapping[str, Any]) -> dict[str, Any]:
    """The script's own hyperparameters; each one that is JSON is decoded."""
    given: Mapping[str, str] = request.get("HyperParameters", {})
    return {key: _decoded(value) for key, value in given.items() if not key.startswith(_FOR_THE_CONTAINER)}


def arguments(users: Mapping[str, Any]) -> list[str]:
    """Hyperparameters as command line arguments, sorted by name."""
    return [part for key in sorted(users) for part in (_option(key), _as_argument(users[key]))]


def _option(key: str) -> str:
    return f"--{key}" if len(key) > 1 else f"-{key}"


def _as_argument(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={value[key]}" for key in sorted(value))
    return str(value)


def _as_variable(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def pack(folder: Path, archive: Path) -> None:
    """Tar the content of `folder` into `archive`, each entry named relative to it."""
    with tarfile.open(archive, "w:gz") as tar:
        for entry in sorted(folder.iterdir()):
            tar.add(entry, entry.name)
