"""The configuration files of MONAI bundles: what runs, and what the model is."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from cggm_med.config import RunConfig, Tree
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.task.segmentation import SegmentationTask

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
VERSION = "0.1.0"  # of a new bundle
PACKAGES = ("nibabel", "pytorch-ignite", "fire", "pyyaml")  # that a bundle needs besides MONAI, torch and NumPy


def network_config(model: SegmentationModel, modalities: Sequence[str], package: str) -> Tree:
    """How to build the network, one image channel a modality.

    Args:
        model: the like of which is to be built.
        modalities: what the channels show, in order.
        package: where its source is: ``cggm_med``, or ``scripts`` inside a bundle.
    """
    return {
        "_target_": f"{package}.models.stacked.StackedModalities",
        "model": {
            "_target_": f"{package}.models.segmentation.SegmentationModel",
            "modalities": list(model.modalities),
            "regions": len(model.head_weight(model.modalities[0])),
            "channels": list(model.channels),
            "deep_supervision": len(model.deep_heads) > 0,
        },
        "modalities": list(modalities),
    }


def inference_config(task: SegmentationTask, network: Tree, package: str, values: Mapping[str, Any]) -> Tree:
    """From a folder of scans to a folder of masks.

    Args:
        task: knows how files are named.
        network: of ``network_config``.
        package: see there.
        values: ``spacing``, ``convention``, ``roi_size``, ``overlap`` and ``precision``, or expressions that give them;
            ``network`` and ``handlers``, which bring the weights; perhaps more, of which these make use.
    """
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "modalities": network["modalities"],
        **values,
        "network_def": network,
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "reader": "NibabelReader", "ensure_channel_first": True},
                {
                    "_target_": f"{package}.data.volumes.transforms.PrepareScand",
                    "keys": "image",
                    "modalities": "@modalities",
                    "spacing": "@spacing",
                },
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": {
                "_target_": f"{package}.data.items.case_items",
                "path": "@dataset_dir",
                "modalities": "@modalities",
                "layouts": [
                    {"_target_": f"{package}.data.layouts.NamedFiles", **dataclasses.asdict(layout)}
                    for layout in task.layouts
                ],
                "decathlon_modalities": dict(task.decathlon_modalities),
                "decathlon_convention": task.decathlon_convention,
                "known_modalities": list(task.known_modalities),
                "labels": None,
            },
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": f"{package}.models.windows.ProbabilityInferer",
            "roi_size": "@roi_size",
            "overlap": "@overlap",
            "precision": "@precision",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": f"{package}.data.volumes.transforms.ToNativeGridd", "keys": "pred", "source": "image"},
                {
                    "_target_": f"{package}.data.volumes.transforms.RegionsToLabelsd",
                    "keys": "pred",
                    "convention": "@convention",
                },
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "",
                    "output_ext": ".nii.gz",
                    "output_dtype": "uint8",
                    "separate_folder": False,
                    "resample": False,
                    "writer": f"{package}.data.volumes.transforms.SameGridWriter",
                },
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def evaluate_config(inference: Tree, package: str) -> Tree:
    """What changes in an inference configuration to score against labels instead: Dice of each region.

    Args:
        inference: of ``inference_config``.
        package: see there.
    """
    load, prepare = inference["preprocessing"]["transforms"]
    to_native, *_ = inference["postprocessing"]["transforms"]
    to_regions = {
        "_target_": f"{package}.data.volumes.transforms.LabelsToRegionsd",
        "keys": "label",
        "convention": "@convention",
    }
    both = "$monai.handlers.from_engine(['pred', 'label'])"
    return {
        "dataset#data#labels": "$@convention['name']",
        "preprocessing#transforms": [load, {**load, "keys": "label"}, prepare, to_regions],
        "postprocessing#transforms": [to_native, {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}],
        # Nothing there and nothing predicted counts as 1, something missed or made up as 0.
        "dice": {"_target_": "DiceMetric", "ignore_empty": False},
        "key_metric": {
            "val_mean_dice": {"_target_": "IgniteMetricHandler", "metric_fn": "@dice", "output_transform": both}
        },
        "evaluator#key_val_metric": "@key_metric",
        "handlers": [
            *inference["handlers"],
            {"_target_": "StatsHandler", "iteration_log": False},
            {
                "_target_": "MetricsSaver",
                "save_dir": "@output_dir",
                "metrics": ["val_mean_dice"],
                "metric_details": ["val_mean_dice"],
                "batch_transform": "$lambda batch: [item['image'].meta for item in batch]",
                "summary_ops": "*",
            },
        ],
    }


def convention_tree(convention: LabelConvention) -> Tree:
    """A label convention in plain values; numbers that are keys as text, as JSON has it."""
    return {
        "name": convention.name,
        "meanings": {str(label): meaning for label, meaning in convention.meanings.items()},
        "regions": {region: list(labels) for region, labels in convention.regions.items()},
        "paint": dict(convention.paint),
    }


def metadata(
    task: SegmentationTask,
    model: SegmentationModel,
    modalities: Sequence[str],
    convention: LabelConvention,
    *,
    name: str,
    spacing: Sequence[float],
    change: str,
    facts: Tree,
) -> Tree:
    """What a bundle's model is, for people and programs.

    Args:
        task: that the model was trained on.
        model: the network.
        modalities: what the channels of its image show, in order.
        convention: of the masks.
        name: of the model.
        spacing: voxel size in mm that the network sees, along right, anterior and superior.
        change: how this version came about.
        facts: further keys, such as ``eval_metrics``.
    """
    coarsest = 2 ** (len(model.channels) - 1)
    size = [f"{2 * coarsest}*n"] * 3  # instance normalisation needs two voxels on the coarsest grid
    labels = {"0": "background", **{str(label): meaning for label, meaning in convention.meanings.items()}}
    regions = "; ".join(f"{region} = labels {list(of)}" for region, of in convention.regions.items())
    each = ", ".join(modalities)
    versions = {package: importlib.metadata.version(package) for package in ("monai", "torch", "numpy", *PACKAGES)}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: change},
        "monai_version": versions["monai"],
        "pytorch_version": versions["torch"].split("+")[0],
        "numpy_version": versions["numpy"],
        "required_packages_version": {package: versions[package] for package in PACKAGES},
        "name": name,
        "task": task.description,
        "description": f"A 3-D U-Net with one encoder for each of {each}, mask-aware fusion and one decoder. "
        "It says for each voxel how probable each region is; masks hold the innermost region whose probability is at "
        "least 0.5.",
        "authors": "see the owner of the training data and of this bundle",
        "copyright": "source: contributors of cggm-med, Apache-2.0; weights: whoever trained them",
        "data_source": task.url,
        "data_type": "nibabel",
        "image_classes": f"{len(modalities)} channels: {each}; each z-scored inside the head, 0 outside",
        "label_classes": f"{convention.describe()} ({convention.name})",
        "pred_classes": f"of the network: one logit a region, {regions}; of the mask: {convention.describe()}",
        "eval_metrics": {},
        "intended_use": "Research. Not a medical device: not for diagnosis, treatment or any decision about a patient.",
        "references": [task.url],
        "spacing_mm": [float(size) for size in spacing],
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "MR",
                    "num_channels": len(modalities),
                    "spatial_shape": size,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {str(i): modality for i, modality in enumerate(modalities)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(convention.regions),
                    "spatial_shape": size,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    # The mask's numbers, since MONAI Label shows the mask with these names.
                    "channel_def": labels,
                    "region_def": {str(i): region for i, region in enumerate(convention.regions)},
                }
            },
        },
        **facts,
    }


def pipeline_inference_config(task: SegmentationTask, model: SegmentationModel) -> Tree:
    """``inference_config`` of a bundle without weights: these, and what the data decided, come from its run."""
    values: Tree = {
        "run_dir": "$@bundle_root + '/run'",
        "trained": {"_target_": "cggm_med.bundle.training.TrainedRun", "folder": "@run_dir"},
        **{name: f"$@trained.{name}" for name in ("spacing", "convention", "roi_size", "overlap", "precision")},
        "network": "$@trained.load(@network_def).to(@device)",
        "handlers": [],
    }
    return inference_config(task, network_config(model, model.modalities, "cggm_med"), "cggm_med", values)


def train_config(model: SegmentationModel, config: RunConfig) -> Tree:
    """Training through the project's engine.

    Args:
        model: the network.
        config: settings, whose values are the defaults.
    """
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/run'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "max_epochs": config.train.epochs,
        "val_interval": config.train.validate_every,
        "overrides": [],
        "network_def": network_config(model, model.modalities, "cggm_med"),
        "train": {
            "dataset": {"_target_": "cggm_med.bundle.training.Scans", "data": "@dataset_dir"},
            "inferer": {
                "_target_": "cggm_med.models.windows.ProbabilityInferer",
                "roi_size": list(config.data.patch_size),
                "overlap": config.data.overlap,
                "precision": config.train.precision,
            },
            "handlers": [],
            "trainer": {
                "_target_": "cggm_med.bundle.training.EngineTrainer",
                "settings": "$@bundle_root + '/configs/settings.yaml'",
                "network": "@network_def",
                "dataset": "@train#dataset",
                "inferer": "@train#inferer",
                "output_dir": "@output_dir",
                "max_epochs": "@max_epochs",
                "val_interval": "@val_interval",
                "device": "@device",
                "overrides": "@overrides",
                "train_handlers": "@train#handlers",
            },
        },
        "validate": {
            "dataset": {"_target_": "cggm_med.bundle.training.Scans", "data": "@dataset_dir"},
            "handlers": [],
            "evaluator": {
                "_target_": "cggm_med.bundle.training.EngineEvaluator",
                "run_dir": "@output_dir",
                "dataset": "@validate#dataset",
                "device": "@device",
                "val_handlers": "@validate#handlers",
            },
        },
        "run": ["$@train#trainer.run()"],
    }
