"""The environments of the embedded cloud's processes: what they are told, and what of this machine they never see.

A person's own AWS profile, keys, region and proxies stay outside: nothing started here can reach a real account.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

ACCOUNT = "000000000000"
REGION = "us-east-1"
LOOPBACK = "127.0.0.1"

_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy"})
_OF_THE_MACHINE = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE")


def client_environment(url: str, region: str = REGION) -> dict[str, str]:
    """The variables with which any AWS SDK talks to the cloud at `url`, and to nothing else."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": f"{LOOPBACK},localhost",
        "no_proxy": f"{LOOPBACK},localhost",
    }


def without_aws(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without whatever names an AWS account, region or endpoint."""
    return {name: value for name, value in environ.items() if not name.startswith("AWS_")}


def without_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without proxies: a loopback address is never to be asked of one."""
    return {name: value for name, value in environ.items() if name.lower() not in _PROXIES}


def emulator_environment(state: Path, port: int, environ: Mapping[str, str]) -> dict[str, str]:
    """What the emulator runs with; its functions and training jobs inherit it.

    Everything it writes lies below `state`, it binds to loopback alone, and it never looks for Docker.
    """
    url = f"http://{LOOPBACK}:{port}"
    return {
        **{name: environ[name] for name in _OF_THE_MACHINE if name in environ},
        **client_environment(url),
        "GATEWAY_PORT": str(port),
        "BIND_HOST": LOOPBACK,
        "MINISTACK_HOST": LOOPBACK,
        "MINISTACK_ACCOUNT_ID": ACCOUNT,
        "MINISTACK_REGION": REGION,
        # told back by the health check: how a caller knows that it is this cloud that answers on the port
        "MINISTACK_EDITION": edition(state),
        "S3_DATA_DIR": str(state / "s3"),
        "STATE_DIR": str(state / "services"),
        "TMPDIR": str(state / "tmp"),
        "LAMBDA_EXECUTOR": "local",
        # policies are evaluated
        "AUTH": "true",
        "DOCKER_HOST": f"unix://{state / 'no-docker.sock'}",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
        # the emulator's functions inherit that, and would log no more than it either
        "POWERTOOLS_LOG_LEVEL": "INFO",
    }


def edition(state: Path) -> str:
    """The name under which the cloud of a state folder answers."""
    return f"overcut-{hashlib.sha256(os.fsencode(state)).hexdigest()[:16]}"
