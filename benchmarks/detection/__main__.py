"""Ours beside what people would pick instead: `python -m benchmarks.detection [--nab CHECKOUT] [--seeds N]`.

Writes the tables of docs/detection.md; the method is told there. The tables of what is not at hand (recorded files, a
checkout of the Numenta benchmark) stay as they are.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from benchmarks.detection import nab, ours
from benchmarks.detection.calibration import CALIBRATION_SEEDS, Map, PeerDetector, Scores, choose_cutoff
from benchmarks.detection.peers import EwmaChart, LaboratoryForest, Peer, RollingZScore, StreamingForest, peers
from benchmarks.detection.recordings import RECORDED, Detector, Incident, Recording, recorded, simulated
from benchmarks.detection.report import fleet_tables, nab_table, recorded_table, replace_section
from benchmarks.detection.scoring import EventScores, score

ROOT = Path(__file__).parent.parent.parent
LABORATORY = "the laboratory's rule"
LABORATORY_Z_FACTOR = 2.5
PROCESSES = 2
FILE_OF_A_FLEET = "simulated_fleet"
PUBLISHED_ON_NAB = ("ARTime", "numenta", "randomCutForest", "windowedGaussian")
# a shingle as long as elsewhere, and none, as in the forest whose scores the benchmark publishes
PEERS_ON_NAB: dict[str, nab.ScoreSeries] = {
    "rolling z-score": nab.OnNab(RollingZScore().score),
    "EWMA chart": nab.OnNab(EwmaChart().score),
    "Random Cut Forest, streaming, 30 values": nab.OnNab(StreamingForest().forest_score),
    "Random Cut Forest, streaming, 1 value": nab.OnNab(StreamingForest(shingle_size=1).forest_score),
}

Judged = Sequence[tuple[Recording, Sequence[Incident]]]


def calibrated(wanted: Sequence[Peer], sensors: int, scores: Scores, progress: Progress) -> Iterator[PeerDetector]:
    """The peers as detectors, with cutoffs chosen on fleets of their own."""
    if not wanted:
        return
    fleets = [simulated(seed, sensors=sensors) for seed in CALIBRATION_SEEDS]
    for peer in progress.track(wanted, description="choose cutoffs"):
        cutoff = choose_cutoff(peer, fleets, scores=scores)
        progress.console.print(f"{peer.name}: cutoff {cutoff:.2f}")
        yield PeerDetector(peer.name, peer, cutoff, scores)


def judge(detector: Detector, recordings: Sequence[Recording], progress: Progress) -> Judged:
    """What the detector opens in each recording."""
    return [(it, detector.incidents(it)) for it in progress.track(recordings, description=detector.name)]


def told(name: str, scores: EventScores) -> str:
    """One line for the person who waits."""
    return f"{name}: {scores.found} of {scores.faults} found, {scores.false_incidents} false"


def compare(
    entries: Sequence[Detector], fleets: Sequence[Recording], files: Sequence[Recording], progress: Progress
) -> tuple[dict[str, EventScores], dict[str, dict[str, EventScores]]]:
    """Scores over all fleets together, by detector; and over each file, by detector and file."""
    on_fleets: dict[str, EventScores] = {}
    on_files: dict[str, dict[str, EventScores]] = {}
    for detector in entries:
        if fleets:
            on_fleets[detector.name] = score(judge(detector, fleets, progress))
            progress.console.print(told(f"{detector.name}, simulated", on_fleets[detector.name]))
        if files:
            judged = judge(detector, files, progress)
            on_files[detector.name] = {recording.name: score([(recording, own)]) for recording, own in judged}
            for name, scores in on_files[detector.name].items():
                progress.console.print(told(f"{detector.name}, {name}", scores))
    return on_fleets, on_files


def on_nab(
    checkout: Path, is_wanted: Callable[[str], bool], mapping: Map, progress: Progress
) -> dict[str, nab.NabScores]:
    """Ours and some peers on the Numenta benchmark, then detectors whose scores it publishes."""
    corpus = nab.read_corpus(checkout)
    entries = {name: entry for name, entry in {**ours.on_nab(), **PEERS_ON_NAB}.items() if is_wanted(name)}
    found: dict[str, nab.NabScores] = {}
    for name, score_series in entries.items():
        scored = mapping(partial(nab.run, score_series), corpus)
        scores = list(progress.track(scored, total=len(corpus), description=f"{name}, Numenta"))
        found[name] = nab.evaluate(corpus, scores)
        progress.console.print(f"{name}, Numenta: {found[name].best[nab.STANDARD.name]:.1f}")
    for name in progress.track(PUBLISHED_ON_NAB, description="published on Numenta"):
        found[f"published scores of {name}"] = nab.evaluate(corpus, nab.read_results(checkout, name, corpus))
    return found


@click.command()
@click.option(
    *("--nab", "checkout"),
    envvar="NAB",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Of numenta/NAB.",
)
@click.option("--seeds", type=click.IntRange(0, 100), default=3, show_default=True, help="Simulated fleets: 1 to N.")
@click.option("--sensors", type=click.IntRange(1, 1000), default=20, show_default=True, help="Of each simulated fleet.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=ROOT.parent / "shared" / "data",
    help="Recorded files.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Detectors whose name holds NAME; nothing is written then.")
@click.option(
    "--document",
    type=click.Path(dir_okay=False, path_type=Path),
    default=ROOT / "docs" / "detection.md",
    help="To write.",
)
def main(checkout: Path | None, seeds: int, sensors: int, data: Path, only: tuple[str, ...], document: Path) -> None:
    """Compare detectors, and write the tables of docs/detection.md."""
    console = Console()
    files = list(recorded(data))
    for name in sorted(set(RECORDED) - {it.name for it in files}):
        console.print(f"{name} is left out: it is not in {data}")
    fleets = [simulated(1 + k, sensors=sensors) for k in range(seeds)]

    def is_wanted(name: str) -> bool:
        return not only or any(part in name for part in only)

    sections: dict[str, str] = {}
    pool = ProcessPoolExecutor(PROCESSES, initializer=threadpool_limits, initargs=(1,))
    with pool, Progress(console=console) as progress:
        own = [it for it in ours.detectors() if is_wanted(it.name)]
        scores = Scores(pool.map)
        laboratory = PeerDetector(LABORATORY, LaboratoryForest(), LABORATORY_Z_FACTOR, scores)
        fixed = [laboratory] if is_wanted(LABORATORY) else []
        chosen = list(calibrated([it for it in peers() if is_wanted(it.name)], sensors, scores, progress))
        on_fleets, on_files = compare([*own, *fixed, *chosen], fleets, files, progress)
        cutoffs = {it.name: it.cutoff for it in [*fixed, *chosen]}
        if on_fleets:
            sections["simulated"] = fleet_tables(f"Seeds 1 to {seeds}, {sensors} sensors each", on_fleets, cutoffs)
        if on_files:
            by_detector = {name: own.pop(FILE_OF_A_FLEET) for name, own in on_files.items() if FILE_OF_A_FLEET in own}
            if by_detector:
                sections[FILE_OF_A_FLEET] = fleet_tables("simulated_fleet", by_detector, cutoffs)
            if all(on_files.values()):
                sections["recorded"] = recorded_table(on_files)
        if checkout is None:
            console.print("the Numenta benchmark is left out: give --nab with the path of a checkout of numenta/NAB")
        else:
            sections["numenta"] = nab_table(on_nab(checkout, is_wanted, pool.map, progress))
    for name, text in sections.items():
        console.print(Markdown(text))
        if not only:
            replace_section(document, name, text)


if __name__ == "__main__":
    main()
