"""The real CDK command line against an embedded cloud: bootstrap, synthesize, deploy.

Everything it writes stays in the checkout: its caches below `.tools`, its assembly and log in the cloud's state folder.
"""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from workbench.cloud.environment import ACCOUNT, REGION, client_environment, without_aws, without_proxies
from workbench.cloud.processes import CHECKOUT, tail

Outputs = dict[str, dict[str, str]]

_CLI = CHECKOUT / "node_modules" / ".bin" / "cdk"
_TOOLS = CHECKOUT / ".tools"


class DeployError(Exception):
    """The CDK command line failed; the message holds the end of its log and where that is."""


@dataclass(frozen=True)
class Deployment:
    """Deploys the CDK app of `project` to one embedded cloud.

    Attributes:
        url: the cloud's endpoint.
        state: the cloud's state folder; the assembly and the logs go there.
        project: the folder of `cdk.json`.
        region: where the stacks go.
    """

    url: str
    state: Path
    project: Path = CHECKOUT
    region: str = REGION

    @property
    def assembly(self) -> Path:
        """Where `synthesize` leaves the templates and assets."""
        return self.state / "cdk.out"

    def bootstrap(self) -> None:
        """Make the resources that every deployment to an account and region needs; once a cloud.

        Raises:
            DeployError: it failed.
        """
        # away from the project, or the CLI runs its app first, which a bootstrap does not need
        self._run("bootstrap", [f"aws://{ACCOUNT}/{self.region}"], without_proxies(os.environ), folder=self.state)

    def synthesize(self, stage: str = "local", context: Mapping[str, str] | None = None) -> Path:
        """Make the assembly, which can be deployed any number of times; returns its folder.

        Raises:
            DeployError: the app failed.
        """
        pairs = {"stage": stage, **(context or {})}
        options = [part for name, value in pairs.items() for part in ("--context", f"{name}={value}")]
        self._run("synth", ["--quiet", "--output", str(self.assembly), *options], os.environ)
        return self.assembly

    def deploy(
        self,
        assembly: Path | None = None,
        parameters: Mapping[str, str] | None = None,
        stacks: Sequence[str] = ("--all",),
    ) -> Outputs:
        """Deploy an assembly; returns each stack's outputs by their names.

        Args:
            assembly: the folder that `synthesize` returned, by default where it leaves it.
            parameters: CloudFormation parameters, as `Name` for every stack that is deployed or `Stack:Name` for one.
            stacks: the stacks' names.

        Raises:
            DeployError: it failed.
        """
        outputs = self.state / "outputs.json"
        outputs.unlink(missing_ok=True)
        options = [part for name, value in (parameters or {}).items() for part in ("--parameters", f"{name}={value}")]
        self._run(
            "deploy",
            [
                *stacks,
                *("--app", str(assembly or self.assembly)),
                *("--require-approval", "never"),
                *("--outputs-file", str(outputs)),
                *("--progress", "events"),
                *options,
            ],
            without_proxies(os.environ),
        )
        found: Outputs = json.loads(outputs.read_text()) if outputs.exists() else {}
        return found

    def _run(
        self, command: str, options: Sequence[str], environ: Mapping[str, str], folder: Path | None = None
    ) -> None:
        log = self.state / f"cdk-{command}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        for folder_of_tools in (_TOOLS / "tmp", _TOOLS / "home"):
            folder_of_tools.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            code = _run_in_a_group(
                [_CLI, command, "--no-notices", "--no-version-reporting", "--ci", "--no-color", *options],
                folder=folder or self.project,
                environ=self._environment(environ),
                output=output,
            )
        if code != 0:
            raise DeployError(f"cdk {command} ended with exit code {code}.\n{tail(log)}")

    def _environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        home = Path.home()
        return {
            # what a person has set up for package indexes stays in reach of the bundling
            "XDG_CONFIG_HOME": str(home / ".config"),
            "NETRC": str(home / ".netrc"),
            "UV_CACHE_DIR": str(_TOOLS / "uv-cache"),
            **without_aws(environ),
            **client_environment(self.url, self.region),
            "PATH": f"{CHECKOUT / '.venv' / 'bin'}{os.pathsep}{environ['PATH']}",
            # the construct library keeps a cache in the home folder and cannot be told another one
            "HOME": str(_TOOLS / "home"),
            "CDK_HOME": str(_TOOLS / "cdk"),
            "CDK_DISABLE_CLI_TELEMETRY": "true",
            "CDK_DISABLE_VERSION_CHECK": "true",
            "CDK_DISABLE_LEGACY_EXPORT_WARNING": "1",
            "JSII_RUNTIME_PACKAGE_CACHE_ROOT": str(_TOOLS / "jsii"),
            "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "1",
            "TMPDIR": str(_TOOLS / "tmp"),
        }


def _run_in_a_group(
    command: Sequence[str | Path], *, folder: Path, environ: Mapping[str, str], output: IO[bytes]
) -> int:
    """Run a command to its end; return its exit code. Whatever ends the wait also ends all that the command started."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait()
    except BaseException:
        # left alone, the CLI's app would go on to write an assembly that nobody waits for
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
