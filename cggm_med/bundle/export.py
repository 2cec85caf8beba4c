"""Exporting a trained run as a MONAI bundle that runs without this package."""

from __future__ import annotations

import importlib.metadata
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from monai.data import save_net_with_metadata
from torch import nn

import cggm_med
from cggm_med.bundle.configs import (
    TEMPLATE,
    convention_tree,
    evaluate_config,
    fill_template,
    inference_config,
    metadata,
    smallest_image,
)
from cggm_med.bundle.run_facts import run_facts
from cggm_med.config import Tree
from cggm_med.errors import ConfigError, UnknownName
from cggm_med.files import atomic_file, atomic_folder, digest_of, require_unused, write_json, write_text
from cggm_med.inference.predictor import Predictor
from cggm_med.models.encoders import UNetEncoder
from cggm_med.models.fusion import Fusion, PresenceFusion
from cggm_med.models.mean_network import MeanNetwork
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.models.stacked import StackedModalities
from cggm_med.results.results import Report
from cggm_med.runs.ensemble import members_in_words
from cggm_med.runs.finished_run import held_out
from cggm_med.task.segmentation import SegmentationTask
from cggm_med.trees import parse_json

PACKAGE = "scripts"
# Everything between a scan and its mask: the same source that training and predict run, and nothing else.
MODULES = (
    "bundle.transforms",
    "device",
    "device_name",
    "errors",
    "files",
    "types",
    "data.cases",
    "data.checks.alignment",
    "data.checks.finding",
    "data.checks.header",
    "data.checks.heads",
    "data.checks.judge",
    "data.checks.kinds",
    "data.checks.known",
    "data.checks.looks",
    "data.checks.measure",
    "data.checks.together",
    "data.checks.typical",
    "data.monai_items",
    "data.layouts",
    "data.patients",
    "data.volumes.background",
    "data.volumes.checks",
    "data.volumes.components",
    "data.volumes.grids",
    "data.volumes.io",
    "data.volumes.itk_formats",
    "data.volumes.label_files",
    "data.volumes.labels",
    "data.volumes.modality_check",
    "data.volumes.monai_one_grid",
    "data.volumes.monai_reader",
    "data.volumes.network_grid",
    "data.volumes.nibabel_formats",
    "data.volumes.normalise",
    "data.volumes.resample",
    "data.volumes.spacing",
    "data.volumes.stored_image",
    "data.volumes.transforms",
    "inference.mask_record",
    "metrics.lesion_areas",
    "metrics.lesion_list",
    "models.base",
    "models.cpu_convolution",
    "models.decoder",
    "models.encoders",
    "models.fusion",
    "models.heads",
    "models.inferer",
    "models.mean_network",
    "models.residual",
    "models.segmentation",
    "models.stacked",
    "models.sliding_window",
    "objectives.activation",
)
SCHEMA_FILE = TEMPLATE / "metadata_schema.json"


def export_bundle(run: Path, folder: Path, modalities: Sequence[str] | None = None) -> None:
    """Write a finished run as a self-contained MONAI bundle.

    Args:
        run: folder of a finished run of a segmentation task, or of an ensemble of them.
        folder: new or empty; written completely or not at all.
        modalities: channels of the bundle's image, in order; default: all of the run's. Others are absent.

    Raises:
        CheckpointError: if the folder is not a run, or its training has not finished.
        ConfigError: if the run does not segment, or a bundle cannot carry the source of its encoder or fusion.
        UnknownName: for a modality that the run was not trained on.
        OutputError: if ``folder`` holds files already or cannot be written.
    """
    require_unused(folder, option="-o")
    predictor = Predictor(run, "cpu")
    results = _results(predictor)
    task = predictor.volumes
    if not isinstance(task, SegmentationTask):
        raise ConfigError(
            f"{run} is a run of task '{predictor.run.task}', whose network a bundle cannot carry; segment with "
            "cggm-med predict"
        )
    chosen = tuple(modalities or task.modalities)
    for modality in chosen:
        if modality not in task.modalities:
            raise UnknownName("modality in this run", modality, task.modalities)
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"modalities are {', '.join(chosen)}; expected each once")
    each = _tasks(predictor, task)
    for one in each:
        _require_portable(run, one, whole=len(chosen) == len(task.modalities))
    trained_networks = predictor.model.networks if isinstance(predictor.model, MeanNetwork) else [predictor.model]
    models = [_smaller(network, chosen, one) for network, one in zip(trained_networks, each, strict=True)]
    network = StackedModalities(MeanNetwork(models, task.average) if len(models) > 1 else models[0], chosen).eval()
    settings = task.config
    strategies = ", ".join(dict.fromkeys(one.config.strategy.name for one in each))
    trained = {
        "spacing": list(settings.data.spacing),
        "rescaling": {m: numbers for m, numbers in settings.data.rescaling.items() if m in chosen},
        "convention": convention_tree(predictor.convention),
        "roi_size": list(task.window_size),
        "overlap": settings.data.overlap,
        "precision": settings.train.precision,
        "components": dict(task.component_filter.kept),
    }
    source = "ensemble" if len(models) > 1 else "run"
    networks = [(model, one.config) for model, one in zip(models, each, strict=True)]
    inference = inference_config(task, networks, chosen, package=PACKAGE, trained=trained)
    meta = metadata(
        task,
        models,
        chosen,
        predictor.convention,
        name=f"{settings.task.name} ({strategies}): {', '.join(chosen)}",
        spacing=settings.data.spacing,
        change=f"exported from {source} {predictor.digest} by cggm-med {importlib.metadata.version('cggm-med')}",
        **_scores(results, whole=set(chosen) == set(task.modalities), ensemble=len(models) > 1),
    )
    shape = (len(chosen), *smallest_image(models))
    with atomic_folder(folder) as temporary:
        write_json(temporary / "configs" / "metadata.json", meta)
        write_json(temporary / "configs" / "inference.json", inference)
        if _scored(predictor, task):
            write_json(temporary / "configs" / "evaluate.json", evaluate_config(inference, PACKAGE))
        _write_models(temporary / "models", network, shape, meta, inference)
        _write_facts(temporary / "models", run_facts(predictor, chosen))
        _write_source(temporary / PACKAGE)
        _write_texts(temporary, meta, predictor, task)


def _results(predictor: Predictor) -> Report | None:
    """The run's results; None if it held no case out.

    Raises:
        CheckpointError: if training or scoring has not finished.
    """
    run = predictor.run
    run.require_ended()
    if run.members:
        file = run.path / "evaluations" / str(held_out(run.splits)) / run.folder.results.name
        return run.whole(file, lambda file: Report.from_json(parse_json(file.read_text()))) if file.exists() else None
    return run.report if run.folder.results.exists() else None


def _tasks(predictor: Predictor, task: SegmentationTask) -> list[SegmentationTask]:
    """The task of each network: of the runs of an ensemble, else the run's own."""
    of_members = [member.make_task({}).volumes() for member in predictor.run.members]
    return [one for one in of_members if isinstance(one, SegmentationTask)] or [task]


def _require_portable(run: Path, task: SegmentationTask, *, whole: bool) -> None:
    """Refuse a network whose source a bundle does not carry, or that knows what is absent and is to be made smaller."""
    used = task.config.model
    if getattr(task.encoder, "func", task.encoder) != UNetEncoder or task.fusion.__module__ != Fusion.__module__:
        raise ConfigError(
            f"{run} has model.encoder={used.encoder} and model.fusion={used.fusion}; a bundle carries the source of "
            "unet and of the built-in fusions only: train with these, or segment with cggm-med predict"
        )
    if not whole and issubclass(task.fusion, PresenceFusion):
        raise ConfigError(
            f"{run} has model.fusion={used.fusion}, which has learned what the absence of a modality does; export it "
            "with all modalities"
        )


def _smaller(trained: nn.Module, modalities: Sequence[str], task: SegmentationTask) -> SegmentationModel:
    """The trained network without the encoders of other modalities, which add nothing when they are absent."""
    if not isinstance(trained, SegmentationModel):
        raise ConfigError(
            f"strategy '{task.config.strategy.name}' trains a network for each modality, and a bundle holds one "
            "network; export a run of another strategy"
        )
    model = SegmentationModel(
        [m for m in trained.modalities if m in modalities],
        len(trained.head_weight(trained.modalities[0])),
        trained.channels,
        deep_supervision=len(trained.deep_heads) > 0,
        encoder=task.encoder,
        fusion=task.fusion,
        decoder_kernels=task.config.model.kernels or None,
    )
    weights = trained.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model


def _scores(results: Report | None, *, whole: bool, ensemble: bool) -> Tree:
    """The run's metrics for the metadata, if they are those of this bundle."""
    if results is None and ensemble:
        return {"evaluation": "an ensemble that had not been evaluated; nothing was measured"}
    if results is None:
        return {"evaluation": "the run held no case out; nothing was measured"}
    if not whole:
        return {"evaluation": "the run was scored with all its modalities; nothing was measured with these alone"}
    generated = results.provenance["data"].startswith("generated")
    cases = {row["case"] for row in results.scores.cases}
    return {
        "eval_metrics": {name: value for name, value in results.scores.headline.items() if value is not None},
        "evaluation": {
            "split": results.split,
            "cases": len(cases),
            "data": "generated, not of patients" if generated else "the scans that the run was given",
            **results.rules,
        },
    }


def _write_models(folder: Path, network: StackedModalities, shape: Sequence[int], meta: Tree, inference: Tree) -> None:
    """``model.pt``, a state dictionary, and ``model.ts``, which needs no source."""
    with atomic_file(folder / "model.pt") as file:
        torch.save(network.state_dict(), file)
    with warnings.catch_warnings():
        # torch deprecates TorchScript, but MONAI Deploy reads it.
        warnings.simplefilter("ignore")
        with torch.no_grad():
            traced = torch.jit.trace(network, torch.zeros(1, *shape))
        extra = {"inference.json": json.dumps(inference).encode()}
        save_net_with_metadata(traced, str(folder / "model.ts"), meta_values=meta, more_extra_files=extra)


def _write_facts(folder: Path, facts: Tree) -> None:
    """``run.json``: what is known of the run, and which weights that is true of."""
    write_json(folder / "run.json", {**facts, "model": digest_of((folder / "model.pt").read_bytes())})


def _write_source(folder: Path) -> None:
    """The package's modules, which import one another instead of ``cggm_med``."""
    home = Path(cggm_med.__file__).parent
    version = importlib.metadata.version("cggm-med")
    write_text(folder / "__init__.py", f'"""Source of cggm-med {version}, Apache-2.0; only imports were renamed."""\n')
    files = [Path(*module.split(".")).with_suffix(".py") for module in MODULES]
    packages = {package for file in files for package in file.parents if package.name}
    for file in [*files, *(package / "__init__.py" for package in packages)]:
        source = (home / file).read_text(encoding="utf-8")
        write_text(folder / file, re.sub(r"\bcggm_med\.", f"{PACKAGE}.", source))


def _scored(predictor: Predictor, task: SegmentationTask) -> bool:
    """Whether MONAI's Dice is that of the package: it counts voxels to ignore, and needs labels on the images' grid."""
    return predictor.convention.ignore is None and task.reference is None


def _write_texts(folder: Path, meta: Tree, predictor: Predictor, task: SegmentationTask) -> None:
    """Licences, logging configuration and README."""
    data = meta["network_data_format"]
    facts = {
        "meta": meta,
        "channels": data["inputs"]["image"]["channel_def"],
        "channel_modality": data["inputs"]["image"]["channel_modality"],
        "labels": data["outputs"]["pred"]["channel_def"],
        "regions": predictor.convention.regions,
        "colours": list(data["outputs"]["pred"]["colour_def"].values()),
        "spacing": " x ".join(f"{size:g}" for size in meta["spacing_mm"]),
        "evaluation": json.dumps(meta["evaluation"], indent=2),
        "names": (
            "as in BraTS"
            if task.layouts
            else "`CASE_MODALITY.nii.gz`, or `CASE_0000.nii.gz` and so on in the order of the channels below"
        ),
        "scored": _scored(predictor, task),
        "filter": task.component_filter.kept and task.component_filter.describe(list(predictor.convention.regions)),
        "reference": task.reference,
        "run": predictor.digest,
        "members": members_in_words(predictor.run.described_members),
        "version": importlib.metadata.version("cggm-med"),
    }
    for name in ("docs/README.md", "docs/data_license.txt"):
        write_text(folder / name, fill_template(name, **facts))
    for name in ("LICENSE", "configs/logging.conf"):
        write_text(folder / name, (TEMPLATE / name).read_text(encoding="utf-8"))
