"""What a run knows of its own methods: facts in sentences, and the paragraph that they make in a paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cggm_med import registry
from cggm_med.results.tables import rounded
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.task.segmentation import SegmentationTask
from cggm_med.trees import parse_json

# Facts of ``facts_of`` that make the paragraph, in its order.
PARAGRAPH = (
    *("data", "outcome", "partitions", "missing", "checks", "preprocessing", "network", "initial", "training"),
    *("loss", "sampling", "strategy", "selection", "threshold", "filter", "metrics", "averages", "software", "seed"),
)
USE = {"train": "training", "validation": "tuning (validation)", "test": "testing"}
NORMALISATIONS = {
    "z_score": "z-scored inside the body, each image by itself",
    "training_statistics": "clipped and standardised with statistics of the training cases",
    "keep_scale": "divided by one number for all cases, which keeps their scale",
}
AUGMENTATIONS = {
    "none": "not augmented",
    "light": "augmented by random mirroring, gamma, noise and blur (TorchIO)",
    "standard": "augmented by random mirroring, rotation by up to 15 degrees, scaling by up to 15 %, gamma, noise and "
    "blur (TorchIO)",
}
OPTIMIZERS = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD"}
SCHEDULES = {"cosine": "cosine decay", "step": "stepwise decay", "plateau": "decay on plateaus"}
Facts = dict[str, str]


def methods_paragraph(run: FinishedRun) -> str:
    """Plain text for the methods section of a paper, of nothing but what the run knows.

    Args:
        run: finished and scored.
    """
    facts = facts_of(run)
    return " ".join(facts[name] for name in PARAGRAPH if name in facts)


def facts_of(run: FinishedRun) -> Facts:
    """One or two sentences on each subject that the run knows anything of.

    Args:
        run: finished and scored.
    """
    parts = (_data(run), _network(run), _training(run), _scoring(run), _evaluations(run))
    return {name: sentence for part in parts for name, sentence in part.items() if sentence}


def _data(run: FinishedRun) -> Facts:
    rules, splits, data = run.report.rules, run.splits, run.settings.get("data", {})
    source = run.report.provenance.get("data")
    named = f" ({source})" if source else ""
    cases = {name: ids for name, ids in splits.items() if ids}
    total = len({case for ids in cases.values() for case in ids})
    sizes = ", ".join(f"{len(ids)} for {USE[name]}{_groups(run, ids)}" for name, ids in cases.items())
    drawn = "at random from the seed"
    if data.get("splits"):
        drawn = "by a file of case ids"
    elif data.get("fold") is not None:
        drawn = f"as fold {data['fold']} of the cross-validation that the data declare"
    found = _findings(run)
    return {
        "data": f"The data set{named} has {total} cases with the modalities {', '.join(run.modalities)}.",
        "outcome": f"Segmented were the regions {rules['regions']}." if "regions" in rules else "",
        "partitions": f"The cases were partitioned {drawn}: {sizes}.",
        "disjoint": _disjoint(run),
        "missing": "Cases that lack modalities were used with those that they have."
        if data.get("allow_missing")
        else "",
        "checks": f"Automatic checks of the data reported (number of findings): {found}." if found else "",
        "preprocessing": _preprocessing(run),
    }


def _groups(run: FinishedRun, ids: Iterable[str]) -> str:
    """How many patients the cases are of, where it was recorded."""
    found = {run.groups[case] for case in ids if case in run.groups}
    return f" (of {len(found)} {run.task_class.group_kind}{'s' * (len(found) != 1)})" if found else ""


def _disjoint(run: FinishedRun) -> str:
    """Whether the partitions share patients, as it was recorded."""
    if not run.groups:
        return ""
    of = [{run.groups.get(case, case) for case in ids} for _, ids in run.splits.items()]
    shared = any(a & b for i, a in enumerate(of) for b in of[:i])
    kind = run.task_class.group_kind
    return f"{'Some' if shared else 'No'} {kind} has cases in more than one partition."


def _findings(run: FinishedRun) -> str:
    """How often each kind of finding was reported; empty without any."""
    if not run.folder.findings.exists():
        return ""
    kinds = run.whole(run.folder.findings, lambda file: [f["kind"] for f in parse_json(file.read_text())["findings"]])
    return ", ".join(f"{kind} {count}" for kind, count in Counter(kinds).items())


def _preprocessing(run: FinishedRun) -> str:
    """Grid and intensities, of segmentation."""
    if not issubclass(run.task_class, SegmentationTask):
        return ""
    data, by_kind = run.settings["data"], dict[str, list[str]]()
    # From the settings as they lie there: today's task may refuse those of an older run.
    declared = run.settings["task"].get("declaration")
    if declared is None and run.task_class.normalisations is not SegmentationTask.normalisations:
        declared = {"modalities": {}}  # its own code decides
    for modality in run.modalities:
        own = "z_score" if declared is None else declared["modalities"].get(modality, {}).get("normalisation")
        by_kind.setdefault(own, []).append(modality)
    size = f"resampled to {_by(data['spacing'])} mm" if data.get("spacing") else "kept on their own voxel size"
    onto = f" Images of other grids were first resampled to that of {data.get('resample_to')}."
    intensities = "; ".join(
        f"those of {', '.join(of)} were {NORMALISATIONS[kind]}" for kind, of in by_kind.items() if kind is not None
    )
    return (
        f"Volumes were brought to RAS+ orientation and {size}.{onto if data.get('resample_to') else ''}"
        f"{f' Of the intensities, {intensities}.' if intensities else ''}"
    )


def _network(run: FinishedRun) -> Facts:
    model, start = run.settings.get("model", {}), run.initial
    if {"encoder", "channels", "fusion"} <= set(model):
        deep = ", and coarser scales are supervised as well" if model.get("deep_supervision") else ""
        network = (
            f"Each modality has its own encoder ({model['encoder']}; {', '.join(map(str, model['channels']))} "
            f"channels), whose features are fused by {model['fusion']}{deep}."
        )
    else:
        network = f"Settings of the network: {_options(model)}." if model else ""
    initial = "Initial weights were drawn at random from the seed."
    if start:
        copied, every = start["values"]
        initial = (
            f"{copied:,} of {every:,} weights were copied from another trained network (weights {start['digest']})."
        )
    return {"network": network, "initial": initial}


def _training(run: FinishedRun) -> Facts:
    optim, train, strategy = (run.settings[name] for name in ("optim", "train", "strategy"))
    installed = run.strategy in registry.names(registry.STRATEGIES)
    description = registry.load(registry.STRATEGIES, run.strategy).description if installed else ""
    options = _options({key: value for key, value in strategy.items() if key != "name"})
    ended = f" (of at most {run.max_steps:,}: {run.ended['why']})" if run.ended else ""
    hardware, seconds = run.report.provenance.get("device"), run.cost.get("seconds")
    where = f" on {hardware}" if hardware else ""
    took = f" in {seconds / 60:.1f} minutes" if seconds else ""
    decay = train.get("ema_decay")
    averaged = f" Weights are a moving average over the steps (decay {decay:g})." if decay else ""
    versions = run.report.provenance.get("versions")
    return {
        "training": f"Training took {run.steps:,} steps{ended} of batch size {train['batch_size']}{where}{took}, with "
        f"{OPTIMIZERS[optim['name']]} (learning rate {optim['lr']:g}, weight decay {optim['weight_decay']:g}, warm-up "
        f"over {100 * optim['warmup_fraction']:g} % of the steps, then {SCHEDULES[optim['schedule']]}) and gradients "
        f"clipped to norm {optim['clip_norm']:g}.{averaged}",
        **_segmentation(run),
        "strategy": f"Modalities were balanced by the strategy {run.strategy} "
        f"({'; '.join(filter(None, (description, options)))}).{_exposure(train)}",
        "software": f"Software: {versions}." if versions else "",
        "seed": f"The random seed was {run.seed}.",
    }


def _segmentation(run: FinishedRun) -> Facts:
    """Loss and patches, of segmentation."""
    if not issubclass(run.task_class, SegmentationTask):
        return {}
    data, declared = run.settings["data"], run.settings["task"].get("declaration")
    known = run.task_class.__dict__.get("conventions", {})
    exclusive = declared["exclusive"] if declared else any(convention.exclusive for convention in known.values())
    entropy = "cross-entropy with the background" if exclusive else "binary cross-entropy"
    shares = f"{100 * data['foreground']:g} %"
    return {
        "loss": f"The loss was soft Dice plus {entropy}." if declared or known else "",
        "sampling": f"Patches of {_by(data['patch_size'])} voxels, {shares} of them centred on a voxel of a region, "
        f"were {AUGMENTATIONS[data['augmentation']]}.",
        "foreground": f"{shares} of the training patches were centred on a voxel of a region.",
    }


def _exposure(train: Mapping[str, Any]) -> str:
    """How often modalities were left out in training."""
    said = ""
    if rates := train.get("modality_dropout"):
        shown = _options(rates) if isinstance(rates, Mapping) else f"{rates:g}"
        said += f" Modalities were left out of training samples at random (probability {shown})."
    if weight := train.get("subset_view"):
        said += f" A second loss on a random subset of the modalities had weight {weight:g}."
    return said


def _scoring(run: FinishedRun) -> Facts:
    report, rules = run.report, run.report.rules
    scored = len({row["case"] for row in report.scores.cases})
    defined = [f"{name} ({text})" for name, text in rules.items() if name in ("Dice", "HD95", "NSD", "empty region")]
    names = list(report.scores.headline)
    metrics = f"Metrics: {'; '.join(defined)}." if defined else f"Metrics: {', '.join(names)}."
    values = ", ".join(f"{name} {rounded(value)}" for name, value in report.scores.headline.items())
    return {
        "selection": f"The evaluated weights: {rules['checkpoint']}." if "checkpoint" in rules else "",
        "threshold": f"What was scored: {rules['threshold']}." if "threshold" in rules else "",
        "metrics": metrics,
        "averages": f"Metrics are means over the {scored} cases of the {report.split} partition.",
        "performance": f"{values} ({scored} case{'s' * (scored != 1)}, {report.split} partition).",
        "filter": f"Filter of components: {rules['component filter']}." if "component filter" in rules else "",
        "command": f"Masks are made by cggm-med predict with weights {run.digest}."
        if run.folder.weights.exists() and run.task_class.chosen_by.startswith("Dice")
        else "",
    }


def _evaluations(run: FinishedRun) -> Facts:
    """What else was asked of the run, by the folders of its evaluations."""

    def names(kind: str) -> str:
        return ", ".join(path.parent.name for path in sorted((run.path / kind).glob("*/results.json")))

    said = {
        "robustness": ("robustness", "Scored with simulated artefacts of MRI"),
        "subsets": ("subsets", "Scored on subsets of the modalities"),
        "calibration": ("calibration", "Calibration measured"),
        "external": ("external", "Scored with intervals, agreement of volumes and strata"),
    }
    found = {fact: f"{what}: {of}." for fact, (kind, what) in said.items() if (of := names(kind))}
    drawn = any((run.path / "figures").glob("*.png"))
    return {
        **found,
        "failures": "The report lists every case, worst first, with pictures of the worst." if drawn else "",
    }


def _options(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items() if value is not None)


def _by(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)
