"""``deploy study``: models × options × engines × seeds from one file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from deploy.options import argument, command_from_options, option, print_json

HELP = """Build and profile every cell of a study, each in a process of its own.

A cell is one model and one value of every axis. What finished is never done again: after a kill,
or with more values in the file, the same command goes on where it stopped. A cell that fails is
reported, and the others go on; the exit code is then 1. Cells that differ only in how they are
profiled share a bundle. A timed cell has its machine to itself: no other cell, no build, and no
other study runs there meanwhile. All results go to OUT/results.jsonl, for `deploy report`.

\b
STUDY is a YAML file; paths in it are relative to its folder:
  models:                         # left out: the embedded encoder
    - {name: vanilla, path: checkpoints/vanilla}
    - {name: clipped, path: checkpoints/clipped}
  calib-data: train.txt           # also possible for each model
  eval-data: held-out.txt
  build: {calib-samples: 64}      # options of `deploy build` for every cell
  axes:                           # options of `deploy build` to vary
    calib: [minmax, mse]
    engine: [openvino, onnxruntime]
    seed: [0, 1]
  profile: {rounds: 15, threads: [1, 2]}   # of `deploy profile`; a list is an axis
  exclude: [{engine: onnxruntime, profile.threads: 1}]
  include: [{model: clipped, calib: entropy, engine: openvino}]

\b
Examples:
  deploy study study.yaml -o study --dry-run
  deploy study study.yaml -o study --jobs 2
  deploy study study.yaml -o study --retry-failed
  deploy study study.yaml -o /shared/study --cluster ray
"""


@dataclasses.dataclass(frozen=True, slots=True)
class StudyOptions:
    """Everything ``deploy study`` can be told."""

    study: str | None = argument(metavar="STUDY")
    out: str | None = option(
        short="-o", help="Folder for builds, cells and results.  [default: STUDY-results]"
    )
    jobs: int | None = option(
        type=int,
        help="Builds at a time on this machine; leave it for TensorRT, which times kernels while "
        "it builds.  [default: 1]",
    )
    cluster: str = option(
        "local",
        help="Where cells run: local (this machine) or ray (a Ray cluster whose nodes share OUT, "
        "the data and the installation).",
    )
    retry_failed: bool = option(False, type=bool, help="Try again what failed.")
    dry_run: bool = option(False, type=bool, help="Print the cells, and stop.")
    json: bool = option(False, type=bool, help="Print the cells as JSON.")
    quiet: bool = option(False, type=bool, help="Print errors only.")


def run(options: StudyOptions) -> None:
    """Run what is not finished, and print all cells."""
    from deploy.study import telling
    from deploy.study.backends import BACKENDS
    from deploy.study.cells import cells_from_study
    from deploy.study.running import ended_cells, run_study
    from deploy.study.schema import read_study
    from deploy.study.state import RESULTS, StudyFolder
    from trueint8.errors import ConfigError
    from trueint8.progress import progress_for

    if options.study is None:
        raise ConfigError("no study was given", fix="pass STUDY.yaml; --help shows one")
    path = Path(options.study)
    cells = cells_from_study(read_study(path), path)
    folder = StudyFolder(Path(options.out or f"{path.stem}-results"))
    progress = progress_for(quiet=options.quiet)
    if options.dry_run:
        folder.check()
        ended = ended_cells(cells, folder)
    else:
        backend = BACKENDS.load(options.cluster)(options.jobs)
        with folder.locked():
            ended = run_study(
                cells,
                folder,
                backend,
                progress,
                home=path.resolve().parent,
                retry_failed=options.retry_failed,
                tell=lambda each: telling.cell_line(each, folder),
            )
    failed = sum(telling.status_word(each) == "failed" for each in ended)
    if options.json:
        print_json(
            {
                "out": str(folder.path),
                "results": str(folder.path / RESULTS),
                "cells": [telling.plain(each, folder) for each in ended],
            }
        )
    elif options.dry_run:
        click.echo("\n".join(telling.plan_lines(ended)))
        return
    elif options.quiet:
        for each in ended:
            for line in telling.notes_on(each, folder):
                click.echo(line, err=True)
    else:
        click.echo(telling.table(ended, folder))
        results = folder.path / RESULTS
        done = len(ended) - failed
        click.echo(f"{results}: {done} of {len(ended)} cells; next: deploy report {results}")
    if failed and not options.dry_run:
        raise click.exceptions.Exit(1)


COMMAND = command_from_options(StudyOptions, run, help=HELP)
