"""The command ``benchmark``: splits of the field by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cggm_med.cli.json_output import JsonFile, require_json, write_shown
from cggm_med.cli.launching import DryRun, Launcher, Sbatch, goes_on_when_repeated, trainer
from cggm_med.cli.options import Debug, Parallel, Phantom, PublishedSeeds, Settings, make_console, overrides_of


def benchmark(
    name: Annotated[str | None, typer.Argument(help="Of a benchmark, see --list.", metavar="[NAME]")] = None,
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Finished runs, instead of training some.", metavar="[RUN]...")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Name all benchmarks, and what each is.")] = False,
    data: Annotated[Path | None, typer.Option(help="The benchmark's data set, in the challenge's layout.")] = None,
    phantom: Phantom = False,
    strategies: Annotated[
        str | None, typer.Option(help="To train, such as 'joint,uniform[train.subset_view=0.5]'. [cggm]")
    ] = None,
    seeds: PublishedSeeds = None,
    preset: Annotated[str | None, typer.Option(help="Of the task, such as full. [base]")] = None,
    parallel: Parallel = None,
    launcher: Launcher = "local",
    sbatch: Sbatch = None,
    dry_run: DryRun = False,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder; the same one again goes on. [benchmarks/NAME]")
    ] = None,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Train or score on a published list of cases: 15 subsets of four modalities, beside the published figures."""
    from cggm_med.reproduction.benchmark.catalogue import find, listing

    if list_:
        for line in listing():
            typer.echo(line)
        return
    if name is None:
        raise typer.BadParameter("name a benchmark, such as brats2020-rfnet, or list them with --list")
    chosen = find(name)
    options = ("--data", "--phantom", "--strategies", "--seeds", "--preset", "--parallel", "--launcher", "--set")
    values = (data, phantom, strategies, seeds, preset, parallel, launcher == "slurm", settings)
    if folders and (ignored := [option for option, value in zip(options, values, strict=True) if value]):
        raise typer.BadParameter(f"{', '.join(ignored)} cannot go with finished runs")
    if phantom and (data is not None or preset is not None):
        raise typer.BadParameter("--phantom generates data, and trains shortly; leave out --data and --preset")
    from cggm_med.cli import early

    early.refuse_settings([overrides_of(settings, data)])
    from cggm_med.comparison.variants import parse_seeds, refuse_strategies

    numbers = parse_seeds(seeds or ("1" if phantom else "3"))
    refuse_strategies(strategies or "cggm")
    require_json(json, "benchmark", [] if data is None else [data])
    folder = out or Path("benchmarks") / (f"{name}-phantom" if phantom else name)
    train = trainer(launcher, folder / "slurm", "benchmark", sbatch=sbatch, parallel=parallel, dry_run=dry_run)
    from cggm_med.reproduction.benchmark.command import score_runs, train_benchmark
    from cggm_med.reproduction.reproduce import Request, what_to_get

    if folders:
        score_runs(chosen, folders, folder, make_console())
        write_shown(json, "benchmark", folder / "benchmark.json")
        return
    if data is None and not phantom:
        raise what_to_get(name, chosen.data, "benchmark")
    request = Request(folder, data, numbers, None, tuple(settings or ()), train)
    with goes_on_when_repeated():
        train_benchmark(chosen, request, strategies or "cggm", preset, make_console())
    write_shown(json, "benchmark", folder / "benchmark.json")
