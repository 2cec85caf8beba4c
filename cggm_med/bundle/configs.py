"""The configuration files of MONAI bundles, from templates."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps

from cggm_med.config import RunConfig, Tree
from cggm_med.data.declaration import Kind
from cggm_med.data.layouts import NamedFiles
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.normalise import Normalisation
from cggm_med.errors import ConfigError
from cggm_med.models.encoders import UNetEncoder
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.plots.style import region_colours
from cggm_med.task.segmentation import SegmentationTask

TEMPLATE = Path(__file__).with_name("templates")
# MONAI's words (https://docs.monai.io/en/latest/mb_specification.html), which are those of DICOM; of a quantitative map
# the scanner is not declared, and MONAI takes words of one's own.
MONAI_MODALITIES: Mapping[Kind, str] = {"mri": "MR", "ct": "CT", "pet": "PT", "map": "map"}
INTENSITIES: Mapping[Normalisation, str] = {
    "z_score": "z-scored inside the body, 0 outside",
    "training_statistics": "clipped to percentiles of the training cases, z-scored by their mean and deviation",
    "keep_scale": "divided by one number for all cases",
}
PACKAGES = (
    "monai",
    "torch",
    "numpy",
    "nibabel",
    "pytorch-ignite",
    "fire",
    "pyyaml",
    "scipy",
    "SimpleITK",
)  # that bundles need


def inference_config(
    task: SegmentationTask,
    networks: Sequence[tuple[SegmentationModel, RunConfig]],
    modalities: Sequence[str],
    *,
    package: str = "cggm_med",
    trained: Mapping[str, Any] | None = None,
) -> Tree:
    """The inference configuration: from a folder of scans to a folder of masks.

    Args:
        task: knows how files are named.
        networks: the network, as an example of what to build, and its run's settings; of an ensemble several.
        modalities: of the image's channels, in order.
        package: where the source is: ``cggm_med``, or ``scripts`` inside a bundle.
        trained: ``spacing``, ``rescaling``, ``convention``, ``roi_size``, ``overlap``, ``precision`` and ``components``
            of a bundle with weights; None: these and the weights come from the bundle's run.
    """
    layouts = [
        {"_target_": f"{package}.data.layouts.NamedFiles", **dataclasses.asdict(layout)}
        for layout in task.layouts or _plain_layouts(modalities)
    ]
    return _config(
        "inference.json",
        task=task,
        **_networks(networks),
        exclusive=task.exclusive,
        modalities=modalities,
        package=package,
        trained=trained,
        layouts=layouts,
        mask_dtype="uint8" if max(next(iter(task.conventions.values())).meanings) < 256 else "uint16",
    )


def evaluate_config(inference: Tree, package: str) -> Tree:
    """The changes to an ``inference_config`` that score the masks against labels instead: Dice of each region."""
    return _config("evaluate.json", package=package, handlers=inference["handlers"], filtered="components" in inference)


def train_config(model: SegmentationModel, config: RunConfig) -> Tree:
    """Training with ``EngineTrainer``; the values of ``config`` are the defaults."""
    return _config(
        "train.json",
        settings=config,
        **_networks([(model, config)]),
        modalities=model.modalities,
        package="cggm_med",
    )


def convention_tree(convention: LabelConvention) -> Tree:
    """A label convention in plain values; keys are text, as in JSON."""
    return {
        "name": convention.name,
        "meanings": {str(label): meaning for label, meaning in convention.meanings.items()},
        "regions": {region: list(labels) for region, labels in convention.regions.items()},
        "paint": dict(convention.paint),
        **({"exclusive": True} if convention.exclusive else {}),
        **({} if convention.ignore is None else {"ignore": convention.ignore}),
    }


def metadata(
    task: SegmentationTask,
    models: Sequence[SegmentationModel],
    modalities: Sequence[str],
    convention: LabelConvention,
    *,
    name: str,
    spacing: Sequence[float],
    change: str,
    evaluation: Any,
    eval_metrics: Mapping[str, float] | None = None,
) -> Tree:
    """A bundle's metadata, for people and programs.

    Args:
        task: that the model was trained on.
        models: the network; of an ensemble several.
        modalities: of the image's channels, in order.
        convention: of the masks.
        name: of the model.
        spacing: voxel size in mm that the network sees, along right, anterior and superior.
        change: the changelog entry of this version.
        evaluation: how it was scored, or why it was not.
        eval_metrics: its metrics by name.
    """
    shown = {m: MONAI_MODALITIES[task.kinds.get(m, "mri")] for m in modalities}
    kinds = list(dict.fromkeys(shown.values()))
    normalised: dict[Normalisation, list[str]] = {}
    for modality in modalities:
        normalised.setdefault(task.normalisations.get(modality, "z_score"), []).append(modality)
    colours = region_colours(list(convention.regions), task.colours)
    return _config(
        "metadata.json",
        task=task,
        networks=len(models),
        modalities=modalities,
        convention=convention,
        name=name,
        spacing=[float(size) for size in spacing],
        change=change,
        evaluation=evaluation,
        eval_metrics=eval_metrics or {},
        versions={package: importlib.metadata.version(package) for package in PACKAGES},
        regions="; ".join(f"{region} = labels {list(of)}" for region, of in convention.regions.items()),
        size=[f"{n}*n" for n in smallest_image(models)],
        channels=dict(enumerate(modalities)),
        modality=", ".join(kinds),
        channel_modality=dict(enumerate(shown.values())),
        format="hounsfield" if kinds == ["CT"] else "magnitude",
        intensities="; ".join(f"{', '.join(of)} {INTENSITIES[kind]}" for kind, of in normalised.items()),
        labels={0: "background", **convention.meanings},
        region_def=dict(enumerate(convention.regions)),
        colour_def=dict(enumerate(colours[region] for region in convention.regions)),
    )


def smallest_image(models: Sequence[SegmentationModel]) -> tuple[int, ...]:
    """Voxels along x, y, z of the smallest image that all of these networks take; others are multiples of it.

    Instance normalisation needs two voxels on the coarsest grid.
    """
    reductions = []
    for model in models:
        encoder = model.encoders[model.modalities[0]]
        assert isinstance(encoder, UNetEncoder)  # noqa: S101 - the only encoder that a bundle carries
        reductions.append(encoder.reduction)
    return tuple(2 * math.lcm(*of_axis) for of_axis in zip(*reductions, strict=True))


def _networks(networks: Sequence[tuple[SegmentationModel, RunConfig]]) -> Tree:
    """What the template of the network needs."""
    return {
        "networks": [{"model": model, "planned": _planned(config)} for model, config in networks],
        "regions": _regions(networks[0][0]),
    }


def _planned(config: RunConfig) -> Tree:
    """Strides and kernels of the network, as far as they are not the usual ones."""
    steps = {name: getattr(config.model, name) for name in ("strides", "kernels")}
    return {name: [list(step) for step in of] for name, of in steps.items() if of}


def _plain_layouts(modalities: Sequence[str]) -> tuple[NamedFiles, ...]:
    """File names of data without a naming scheme of their own: after the modalities, or numbered as nnU-Net does."""
    return (
        NamedFiles("MODALITY", {m: f"_{m}" for m in modalities}, "_label", None, "(.+)"),
        NamedFiles("nnU-Net", {m: f"_{k:04d}" for k, m in enumerate(modalities)}, "_label", None, "(.+)"),
    )


def _regions(model: SegmentationModel) -> int:
    return len(model.head_weight(model.modalities[0]))


def fill_template(template: str, /, **values: Any) -> str:
    """The filled template of a bundle's file; ``template`` is its path below ``TEMPLATE``.

    Raises:
        jinja2.UndefinedError: if the template needs a value that is not given.
    """
    return _ENVIRONMENT.get_template(template).render(values)


def _config(file: str, /, **values: Any) -> Tree:
    return json.loads(fill_template(f"configs/{file}", **values))


def _inert_json(value: Any) -> str:
    """What a run says as JSON, none of which MONAI would run, look up or load when it reads the configuration.

    Example:
        >>> _inert_json({"label": "$print(1)"})
        Traceback (most recent call last):
        cggm_med.errors.ConfigError: MONAI would run '$print(1)', a name in the run; ...
    """
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str) and part.lstrip().startswith(("$", "@", "%")):
            raise ConfigError(
                f"MONAI would run {part!r}, a name in the run; expected names that begin otherwise: rename it "
                "in the data, and train anew"
            )
        if isinstance(part, Mapping):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, (list, tuple)):
            waiting += part
    return htmlsafe_json_dumps(value, allow_nan=False)


_ENVIRONMENT = Environment(  # noqa: S701 - JSON and Markdown, not HTML
    loader=FileSystemLoader(TEMPLATE), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
)
_ENVIRONMENT.filters["tojson"] = _inert_json
_ENVIRONMENT.filters["configuration"] = json.dumps  # of what another template wrote, which may look up and run
