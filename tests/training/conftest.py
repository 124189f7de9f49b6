"""The functional tests' AWS in memory, for the training script as well."""

from tests.functional.conftest import cloud as cloud
