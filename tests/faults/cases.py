"""Running a function's small world with every fault of a kind, each compared with the world without one."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import pytest

from tests.faults.injection import Call, Fault, Injector, Kind, in_the_way


@dataclass
class Texts:
    """Texts to people. A doubled one was taken by the service, and is in no incident's record."""

    owed: int = 0
    sent: int = 0
    doubled: int = 0

    @property
    def lost(self) -> int:
        return self.owed - self.sent


class World(Protocol):
    """One function at work, with the service that invokes it."""

    def run(self) -> None:
        """Invoke the function as its service would, until nothing is left to do."""

    def outcome(self) -> dict[str, Any]:
        """What people and other functions find afterwards: the same whatever happened on the way."""

    def texts(self) -> Texts:
        """What became of the texts to people."""

    def may_double(self, calls: Sequence[Call], fault: Fault) -> bool:
        """Whether this fault, of these calls, is one that may double a text: see docs/reliability.md."""


class NoTexts:
    """Of a world in which nobody is texted."""

    def texts(self) -> Texts:
        return Texts()

    def may_double(self, calls: Sequence[Call], fault: Fault) -> bool:
        return False


MakeWorld = Callable[[Injector, pytest.MonkeyPatch], AbstractContextManager[World]]


ATTEMPTS = 6  # as a workflow's state that invokes a function says


def workflow_invokes(injector: Injector, call: Callable[[], object]) -> None:
    """What Step Functions does with a state: it tries again."""
    if not any(injector.invoke(call) for _ in range(ATTEMPTS)):
        raise AssertionError("the workflow failed")


def run_world(
    make: MakeWorld, fault: Fault | None, undisturbed: Sequence[Call] = ()
) -> tuple[Injector, dict[str, Any], Texts, bool]:
    """A world of its own, with a fault: who saw it, what became of it, its texts, and whether one may be doubled.

    Args:
        undisturbed: the calls without the fault.
    """
    injector = Injector(fault)
    with pytest.MonkeyPatch.context() as patch, in_the_way(injector, patch), make(injector, patch) as world:
        world.run()
        allowed = fault is not None and world.may_double(undisturbed, fault)
        return injector, world.outcome(), world.texts(), allowed


def check(function: str, make: MakeWorld, kind: Kind, record: Callable[[str, object], None]) -> None:
    """Strike each call that can have a fault of this kind, one a world, and find the same as without it."""
    undisturbed, expected, owed, _ = run_world(make, None)
    assert owed.lost == owed.doubled == 0
    faults, total, wrong = [], Texts(), []
    for fault in faults_of(undisturbed.calls, kind):
        call = undisturbed.calls[fault.number]
        name = f"{function}, call {fault.number + 1}, {call.name}, {kind}"
        try:
            injector, outcome, texts, may_double = run_world(make, fault, undisturbed.calls)
        except Exception as error:
            wrong.append(f"{name}: {error!r}")
            continue
        assert injector.has_struck, name
        wrong += [f"{name}: {difference}" for difference in differences(expected, outcome)]
        if texts.owed != owed.owed or texts.lost or texts.doubled > may_double:
            wrong.append(f"{name}: {texts}, where {owed.owed} are owed")
        faults.append(name)
        total = Texts(total.owed + texts.owed, total.sent + texts.sent, total.doubled + texts.doubled)
    # the list is shown by pytest -rP
    sys.stdout.writelines(f"fault: {name}\n" for name in faults)
    record("faults injected, by function", {"in all": len(faults), function: len(faults)})
    record("faults injected, by kind", {str(kind): len(faults)})
    record("texts to people while faults were injected", {**asdict(total), "lost": total.lost})
    assert not wrong, "\n".join([f"{len(wrong)} things are not as without the fault:", *wrong])
    assert faults, f"{function} makes no call that can be {kind}"


def faults_of(calls: Sequence[Call], kind: Kind) -> Iterator[Fault]:
    return (Fault(number, kind) for number, call in enumerate(calls) if kind in call.kinds)


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {found.get(name)!r:.600} instead of {expected.get(name)!r:.600}"
        for name in {**expected, **found}
        if expected.get(name) != found.get(name)
    ]
