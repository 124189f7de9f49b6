"""Running a function's small world with every fault of a kind, or with two, compared with the world without one."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from random import Random
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


MayDouble = Callable[[Sequence[Call], Fault], bool]


def run_world(
    make: MakeWorld, fault: Fault | None, then: Fault | None = None
) -> tuple[Injector, dict[str, Any], Texts, MayDouble]:
    """A world of its own, with a fault or two: who saw it, what became of it, its texts, and its `may_double`."""
    injector = Injector(fault, then)
    with pytest.MonkeyPatch.context() as patch, in_the_way(injector, patch), make(injector, patch) as world:
        world.run()
        return injector, world.outcome(), world.texts(), world.may_double


def check(function: str, make: MakeWorld, kind: Kind, record: Callable[[str, object], None]) -> None:
    """Strike each call that can have a fault of this kind, one a world, and find the same as without it."""
    undisturbed, expected, owed, _ = run_world(make, None)
    assert owed.lost == owed.doubled == 0
    figures, wrong = Figures(function), []
    for fault in faults_of(undisturbed.calls, kind):
        name = f"{function}, {_named(undisturbed.calls, fault)}"
        try:
            injector, outcome, texts, may_double = run_world(make, fault)
        except Exception as error:
            wrong.append(f"{name}: {error!r}")
            continue
        assert injector.struck == [fault], name
        wrong += [f"{name}: {difference}" for difference in differences(expected, outcome)]
        if texts.owed != owed.owed or texts.lost or texts.doubled > may_double(undisturbed.calls, fault):
            wrong.append(f"{name}: {texts}, where {owed.owed} are owed")
        figures.count(name, [kind], texts)
    figures.tell(record)
    assert not wrong, "\n".join([f"{len(wrong)} things are not as without the fault:", *wrong])
    assert figures.faults, f"{function} makes no call that can be {kind}"


def check_pairs(function: str, make: MakeWorld, pairs: int, record: Callable[[str, object], None]) -> None:
    """Strike a call, and a later one while the first fault is made good, in as many worlds; find the same as without.

    Which ones is drawn, by the name of the function. A text is doubled only by a fault that may do it alone.
    """
    random = Random(function)
    undisturbed, expected, owed, _ = run_world(make, None)
    faults = [fault for kind in Kind for fault in faults_of(undisturbed.calls, kind)]
    figures, wrong = Figures(f"{function}, in pairs"), []
    for _ in range(pairs):
        first, last = sorted(random.sample(faults, 2), key=lambda fault: fault.number)
        between = (one for one in faults if one.kind is last.kind and first.number < one.number < last.number)
        then = Fault(sum(1 for _ in between), last.kind)
        name = f"{function}, {_named(undisturbed.calls, first)}, then the {then.number + 1}. that can be {then.kind}"
        try:
            injector, outcome, texts, may_double = run_world(make, first, then)
        except Exception as error:
            wrong.append(f"{name}: {error!r}")
            continue
        wrong += [f"{name}: {difference}" for difference in differences(expected, outcome)]
        allowed = int(may_double(undisturbed.calls, first))
        if texts.doubled > allowed and len(injector.struck) == 2:
            # what the second one kept from being called is seen without it
            allowed += may_double(run_world(make, first)[0].calls, injector.struck[1])
        if texts.owed != owed.owed or texts.lost or texts.doubled > allowed:
            wrong.append(f"{name}: {texts}, where {owed.owed} are owed, and {allowed} may be doubled")
        # a run may be over before its second
        if len(injector.struck) == 2:
            figures.count(name, [first.kind, then.kind], texts)
    figures.tell(record)
    assert not wrong, "\n".join([f"{len(wrong)} things are not as without the faults:", *wrong])
    assert figures.faults > pairs, "more than half have a second one"


def _named(calls: Sequence[Call], fault: Fault) -> str:
    return f"call {fault.number + 1}, {calls[fault.number].name}, {fault.kind}"


class Figures:
    """What is told of a test: its faults, one a line (`pytest -rP` shows them), and sums for the end."""

    def __init__(self, of: str) -> None:
        self.faults, self._of = 0, of
        self._kinds: Counter[str] = Counter()
        self._texts = Texts()

    def count(self, name: str, kinds: Sequence[Kind], texts: Texts) -> None:
        sys.stdout.write(f"fault: {name}\n")
        self.faults += len(kinds)
        self._kinds.update(map(str, kinds))
        sums = (self._texts.owed + texts.owed, self._texts.sent + texts.sent, self._texts.doubled + texts.doubled)
        self._texts = Texts(*sums)

    def tell(self, record: Callable[[str, object], None]) -> None:
        record("faults injected, by function", {"in all": self.faults, self._of: self.faults})
        record("faults injected, by kind", dict(self._kinds))
        record("texts to people while faults were injected", {**asdict(self._texts), "lost": self._texts.lost})


def faults_of(calls: Sequence[Call], kind: Kind) -> Iterator[Fault]:
    return (Fault(number, kind) for number, call in enumerate(calls) if kind in call.kinds)


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {found.get(name)!r:.600} instead of {expected.get(name)!r:.600}"
        for name in {**expected, **found}
        if expected.get(name) != found.get(name)
    ]
