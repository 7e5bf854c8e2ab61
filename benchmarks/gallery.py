"""Run the studies of the docs, or take what is stored of them, and write their pages: `python benchmarks/gallery.py`.

Results are kept in docs/studies/results and only what is missing there is run: remove a folder to run its study again.
From them come a page for each experiment in docs/studies, docs/gallery.md with every picture, and
docs/reproduction.md with every claim.
"""

import argparse
import lzma
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from problems import DATA

from rightbatch.report.saving import save_figure
from rightbatch.studies import (
    BatchForms,
    BigBatches,
    Experiment,
    Generalisation,
    GradientNorms,
    InterpolationRegimes,
    NoiseGrowth,
    NoiseRemoval,
    Optimizers,
    ProbeRegret,
    RateScaling,
    Schedules,
    Section,
    StartDistance,
    StudyResult,
    Subject,
    Surfaces,
    TradeOff,
    Wiggle,
    study,
)

matplotlib.use("Agg")

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Run:
    """One study of the docs: the experiment's classic problem unless a subject is given."""

    experiment: Experiment
    subject: Subject | None = None

    @property
    def on(self) -> Subject:
        return self.subject or self.experiment.classic

    @property
    def stem(self) -> str:
        """The name of its files."""
        return self.experiment.name + (
            f"-{Path(self.on.data).name.split('.')[0]}-{self.on.model}" if self.subject else ""
        )


MNIST, FASHION, LIBSVM = "data/mnist", "data/fashion_mnist", "data/libsvm"  # named from `studies`, see `main`
CIFAR = "cifar10.npz"
REAL_PAIRS = ((FASHION, "mlp"), (f"{LIBSVM}/a9a_train.npz", "linear"), (FASHION, "linear"))
CONVNET = BigBatches(passes=10, looks=8, tries=4, decays=(1.0,), thetas=(1.0,), most_samples=1000)
# Those with a subject are of the data that the published figures are of, or of more than a laptop's digits.
RUNS = (
    Run(Wiggle()),
    Run(BatchForms()),
    Run(GradientNorms()),
    Run(StartDistance()),
    Run(StartDistance(sizes=(64, 256, 1024), samples=1_200_000), Subject(MNIST, "mlp")),
    Run(NoiseRemoval()),
    Run(NoiseGrowth()),
    Run(NoiseGrowth(epochs=2, looks=8, seeds=3), Subject(MNIST, "cnn")),
    Run(Surfaces()),
    Run(InterpolationRegimes()),
    Run(RateScaling()),
    Run(RateScaling(base=32, epochs=3, scales=(1, 4, 8, 16, 64), seeds=3), Subject(FASHION, "mlp")),
    Run(Optimizers()),
    Run(Generalisation()),
    Run(Generalisation(sizes=(16, 64), rate=0.0025, tuned_by="accuracy"), Subject(FASHION, "mlp")),
    # Keskar's own optimizer and data, a small batch and a tenth of the samples.
    Run(
        Generalisation(
            sizes=(32, 256), seeds=3, rate=0.001, optimizer="Adam", most_samples=10_000, variants=(), tries=5
        ),
        Subject(MNIST, "mlp"),
    ),
    Run(Schedules()),
    Run(Schedules(size=32, tries=5, seeds=3, most_samples=20_000), Subject(FASHION, "mlp")),
    Run(BigBatches(seeds=5)),
    Run(BigBatches(size=256, passes=10, tries=5, penalty=0.001), Subject(f"{LIBSVM}/a9a_train.npz", "linear")),
    Run(
        BigBatches(size=128, passes=10, tries=5, penalty=0.001, against_rest=2),
        Subject(f"{LIBSVM}/covtype_20k.npz", "linear"),
    ),
    Run(
        BigBatches(size=256, passes=10, tries=5, penalty=0.001), Subject(f"{LIBSVM}/ijcnn1_real12_train.npz", "linear")
    ),
    Run(
        BigBatches(passes=10, tries=5, penalty=0.001),
        Subject("data/regression/millionsong_6724.npz", "linear", "year"),
    ),
    Run(CONVNET, Subject(MNIST, "cnn")),
    Run(CONVNET, Subject(CIFAR, "cnn")),
    Run(ProbeRegret()),
    Run(ProbeRegret(pairs=REAL_PAIRS, sizes=(32, 64, 128, 256, 512, 1024), seconds=15), Subject(FASHION, "mlp")),
    Run(TradeOff()),
    Run(TradeOff(sizes=(1, 4, 16, 64, 256, 1024, 4096), seeds=3), Subject(MNIST, "mlp")),
)


@dataclass
class Gallery:
    """Pages under `docs`.

    Args:
        docs: the folder.
        runs: all studies of the docs.
        names: stems of the studies to run where results are missing; empty is all. Of others what is stored is shown.
        processes: side by side.
    """

    docs: Path
    runs: Sequence[Run]
    names: Sequence[str] = ()
    processes: int | None = None
    done: dict[str, list[tuple[Run, StudyResult, Section]]] = field(default_factory=dict)

    def make(self) -> None:
        """Study what is missing, then write every page."""
        for run in self.runs:
            folder = self.docs / "studies" / "results" / run.stem
            wanted = not self.names or run.stem in self.names
            if not wanted and not folder.exists():
                continue
            print(run.stem, flush=True)
            budget_s = None if wanted else 0.0
            done = study(run.experiment, run.subject, folder=folder, budget_s=budget_s, processes=self.processes)
            if done.stopped.startswith("stopped"):
                raise SystemExit("stopped; run the same command again to resume")
            done.page.unlink()  # the page of the docs is written from the same results
            section = run.experiment.section(run.on, done.results)
            self.done.setdefault(run.experiment.name, []).append((run, done, section))
        for studies in self.done.values():
            self._page(studies)
        self._gallery()
        self._reproduction()

    def _page(self, studies: Sequence[tuple[Run, StudyResult, Section]]) -> None:
        experiment = studies[0][0].experiment
        lines = [f"# {experiment.title}", "", experiment.question, "", f"After {experiment.source}.", ""]
        for run, done, section in studies:
            lines += [f"## {run.on}", ""] if len(studies) > 1 else []
            for paragraph in section.paragraphs:
                lines += [paragraph, ""]
            for drawing, name in self._drawings(run, section):
                lines += [f"![{drawing}](../figures/studies/{name})", "", f"*{drawing}.*", ""]
            if section.rows:
                lines += [*table(section.head, section.rows), ""]
            if section.findings:
                rows = [(f.claim, f.source, f.published, f.ours, f.verdict) for f in section.findings]
                lines += [*table(("claim", "source", "published", "ours", "verdict"), rows), ""]
            count = f"{len(done.results):,} of {done.planned:,} trials"
            lines += [f"Design: `{run.experiment!r}`, {count}. {done.made}. {self._again(run)}", ""]
        self._write(f"studies/{experiment.name}.md", lines)

    def _drawings(self, run: Run, section: Section) -> list[tuple[str, str]]:
        """Write the figures; (description, file name) of each."""
        folder = self.docs / "figures" / "studies"
        folder.mkdir(parents=True, exist_ok=True)
        named = []
        for drawing in section.drawings:
            name = f"{run.stem}-{drawing.name}.svg"
            save_figure(drawing.figure, folder / name)
            named.append((drawing.description.rstrip("."), name))
        return named

    def _gallery(self) -> None:
        lines = [
            "# Gallery",
            "",
            "All figures of the studies; `make gallery` draws them from the stored results.",
            "",
        ]
        for name, studies in self.done.items():
            experiment = studies[0][0].experiment
            lines += [f"## [{experiment.title}](studies/{name}.md)", "", experiment.question, ""]
            for run, _, section in studies:
                for drawing in section.drawings:
                    path = f"figures/studies/{run.stem}-{drawing.name}.svg"
                    lines += [
                        f"![{drawing.description}]({path})",
                        "",
                        f"*{run.on}: {drawing.description.rstrip('.')}.*",
                        "",
                    ]
        self._write("gallery.md", lines)

    def _reproduction(self) -> None:
        rows, told, counts = [], set(), {"agrees": 0, "differs": 0, "cannot tell": 0}
        for name, studies in self.done.items():
            for run, _, section in studies:
                for f in section.findings:
                    if (f.claim, f.ours) in told:  # what no run of ours can test is said once
                        continue
                    told.add((f.claim, f.ours))
                    counts[f.verdict] += 1
                    rows.append(
                        (f.claim, f.source, f.published, f.ours, f.verdict, f"[{name}](studies/{name}.md), {run.on}")
                    )
        lines = [
            "# What was reproduced",
            "",
            "Claims about batch size and learning rate, compared with runs of this library. Intervals hold 90 % and "
            "are over seeds unless the page of the experiment says otherwise; *cannot tell* means that the interval "
            "does not decide it, or that it cannot be tested at this scale, and then says why. Every page gives the "
            "design with its seeds and how to run it again.",
            "",
            f"{counts['agrees']} agree, {counts['differs']} differ, {counts['cannot tell']} are undecided.",
            "",
            *table(("claim", "source", "published", "ours", "verdict", "experiment"), rows),
        ]
        self._write("reproduction.md", lines)

    def _again(self, run: Run) -> str:
        if run.experiment == type(run.experiment)():
            subject = f" --data {run.on.data} --model {run.on.model}" if run.subject else ""
            return f"To run it again: `rightbatch study {run.experiment.name}{subject}`."
        return f"To run it again: `study({run.experiment!r}, {run.on!r})` from `rightbatch.studies`."

    def _write(self, name: str, lines: Sequence[str]) -> None:
        path = self.docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *(line(row) for row in rows)]


def write_cifar(path: Path) -> None:
    """The CIFAR-10 images, channels first, in one file that `load` reads."""
    with lzma.open(DATA / "cifar10" / "cifar10_x_train.npy.xz") as file:
        x = np.load(file)
    np.savez(path, x=np.moveaxis(x, -1, 1), y=np.load(DATA / "cifar10" / "cifar10_labels.npz")["y_train"])


def main() -> None:
    """Run what is missing and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", help="studies to run, by the names of their folders in docs/studies/results (default: all)"
    )
    parser.add_argument("--processes", type=int)
    options = parser.parse_args()
    stems = [run.stem for run in RUNS]
    if unknown := set(options.names) - set(stems):
        parser.error(f"no study {', '.join(sorted(unknown))}: give {', '.join(stems)}")
    studies = ROOT / "studies"
    studies.mkdir(exist_ok=True)
    os.chdir(studies)  # so that data have names that say nothing of this machine
    if DATA.exists() and not Path("data").exists():
        Path("data").symlink_to(DATA)
    if DATA.exists() and not Path(CIFAR).exists():
        write_cifar(Path(CIFAR))
    if absent := sorted({run.on.data for run in RUNS if run.subject and not Path(run.on.data).exists()}):
        raise SystemExit(f"the pages need these data, which are not there: {', '.join(absent)}")
    Gallery(DOCS, RUNS, options.names, options.processes).make()


if __name__ == "__main__":
    main()
