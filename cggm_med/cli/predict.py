"""``cggm-med predict``: segment scans, or label samples, with a finished run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cggm_med.cli.json_output import JsonFile, require_json, write_shown
from cggm_med.cli.options import Accept, Debug, files_by_modality, kinds_of, make_console
from cggm_med.device_name import require_device
from cggm_med.errors import ConfigError

if TYPE_CHECKING:
    from cggm_med.data.folders.streamed import Shard
    from cggm_med.inference.predictor import Predictor


def predict(
    words: Annotated[
        list[str], typer.Argument(metavar="RUN [FOLDER] [--MODALITY FILE]...", help="A run, and a folder or files.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Mask (.nii.gz; .dcm of DICOM); a folder for a folder; .csv for labels.")
    ],
    modalities: Annotated[str | None, typer.Option(help="Of a folder, use these only, such as flair,t1ce.")] = None,
    require: Annotated[
        str | None, typer.Option(help="Of a folder, refuse cases that lack one of these, such as flair,t1ce.")
    ] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a DICOM folder: number, UID or part of the description of a modality's series, such as flair=5.",
            metavar="MODALITY=SERIES",
        ),
    ] = None,
    ending: Annotated[
        str, typer.Option(help="Of a folder, what each mask ends with; .dcm of DICOM studies.", metavar="ENDING")
    ] = ".nii.gz",
    skip_existing: Annotated[bool, typer.Option(help="Leave out cases whose mask is there.")] = False,
    shard: Annotated[
        str | None,
        typer.Option(help="Of a large cohort, segment one of N shares, and go on where it was left.", metavar="K/N"),
    ] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="After the shard, go on with those whose processes have died.")
    ] = False,
    flips: Annotated[bool, typer.Option(help="Average over mirrored scans; eight times slower.")] = False,
    trust_names: Annotated[bool, typer.Option(help="Do not refuse modalities that seem to be exchanged.")] = False,
    accept: Accept = None,
    resample_to: Annotated[
        str | None, typer.Option(help="Bring images on other grids onto that of this one.", metavar="MODALITY")
    ] = None,
    extra: Annotated[
        list[str] | None, typer.Option(help="Also write probabilities, uncertainty or calibrated (probabilities).")
    ] = None,
    review_below: Annotated[
        float | None,
        typer.Option(
            help="List the masks whose predicted quality is lower; takes longer. [after cggm-med calibrate]",
            min=0,
            max=1,
            metavar="QUALITY",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Segment scans with a finished run: a folder as for training, one or many DICOM studies, or a file per modality.

    Any of the run's modalities may be absent; of a folder, cohort.csv says in each case which were. A run that does not
    segment labels the cases of a folder or file as for training: a table of classes with probabilities, or of values.
    """
    run, *rest = words
    images, folders = files_by_modality(rest)
    if bool(images) == bool(folders) or len(folders) > 1:
        raise typer.BadParameter("give either one folder, or files such as --flair a.nii.gz --t1ce b.nii.gz")
    chosen = _series_by_modality(series or [])
    if chosen and images:
        raise typer.BadParameter("--series chooses among the series of a DICOM folder; give one instead of files")
    if modalities and images:
        raise typer.BadParameter("--modalities chooses among those of a folder; of files, leave out what is not wanted")
    if require and images:
        raise typer.BadParameter("--require is about the cases of a folder; it says nothing of a single case")
    if review_below is not None and flips:
        raise typer.BadParameter("--review-below was measured without --flips; leave out one of them")
    if shard is not None and (images or chosen):
        raise typer.BadParameter("--shard is for a folder of case folders or a table of cases, of image files")
    if take_over and shard is None:
        raise typer.BadParameter("--take-over needs --shard K/N")
    share = None if shard is None else _shard_of(shard, Path(folders[0]))
    from cggm_med.cli import early

    named = [name for names in (modalities, require) if names for name in names.split(",")]
    early.refuse_modalities(Path(run), [*images, *chosen, *named], inspect.signature(predict).parameters)
    early.refuse_absent(images.values(), "an image")
    # Of studies of which series are chosen, nothing is repeated: a path may hold a patient's name.
    early.refuse_absent(map(Path, () if chosen else folders), "a folder of images or studies, or a datalist")
    require_device(device, "device")
    require_json(json, "predict", [Path(run), *map(Path, folders), *images.values()])
    from cggm_med import distributed
    from cggm_med.data.dicom.series import holds_dicom
    from cggm_med.data.dicom.studies import find_studies
    from cggm_med.device import select_device
    from cggm_med.files import require_writable, write_text
    from cggm_med.inference.batch import cohort_lesions, cohort_rows, cohort_table, find_images, predict_cases
    from cggm_med.inference.dicom_studies import predict_studies
    from cggm_med.inference.dicom_study import ENDINGS, predict_study
    from cggm_med.inference.manifest import is_cohort
    from cggm_med.inference.predictor import Predictor
    from cggm_med.inference.review import review_lines
    from cggm_med.inference.side_car import LESION_COLUMNS, case_of
    from cggm_med.results.tables import csv_text, print_table
    from cggm_med.runs.finished_run import FinishedRun

    if FinishedRun(Path(run)).make_task({}).volumes() is None:
        of_scans = {
            "--MODALITY FILE": images,
            "--series": series,
            "--skip-existing": skip_existing,
            "--shard": shard,
            "--flips": flips,
            "--trust-names": trust_names,
            "--accept": accept,
            "--resample-to": resample_to,
            "--extra": extra,
            "--review-below": review_below is not None,
        }
        _label(
            Path(run),
            [Path(folder) for folder in folders],
            out,
            device,
            modalities=modalities.split(",") if modalities else None,
            required=require.split(",") if require else (),
            refused=[option for option, given in of_scans.items() if given],
            json=json,
        )
        return
    if share is not None and distributed.started() > 1:
        raise typer.BadParameter("--shard is for single processes; start one for each shard instead of torchrun")
    with distributed.processes(select_device(device)):
        predictor = Predictor(
            Path(run),
            device,
            flips=flips,
            trust_names=trust_names,
            resample_to=resample_to,
            accept=kinds_of(accept),
            quality=review_below is not None,
        )
        wanted = modalities.split(",") if modalities else None
        if share is not None:
            _predict_shard(
                predictor,
                Path(folders[0]),
                out,
                share,
                take_over=take_over,
                json=json,
                ending=ending,
                modalities=wanted,
                required=tuple(require.split(",")) if require else (),
                extras=extra or [],
                review_below=review_below,
            )
            return
        options: dict[str, Any] = {"skip_existing": skip_existing, "extras": extra or [], "say": typer.echo}
        cases: Mapping[str, Any] = {case_of(out): images}
        files, required = {case_of(out): out}, tuple(require.split(",")) if require else ()
        dicom = bool(folders) and (bool(chosen) or holds_dicom(Path(folders[0])))
        cohort = not (images or (dicom and out.name.lower().endswith(ENDINGS)))
        if dicom and required and not cohort:
            raise typer.BadParameter("--require is about the studies of a folder; with one mask, leave it out")
        if cohort:
            require_writable([out / "cohort.csv", out / "lesions.csv"], inputs=[Path(folders[0])], ours=is_cohort)
        if images:
            failed = predict_cases(predictor, cases, files, **options)
        elif not cohort:
            failed = predict_study(predictor, Path(folders[0]), out, chosen=chosen, modalities=wanted, **options)
        elif dicom:
            studies = find_studies(Path(folders[0]))
            files = {study.name: out / f"{study.name}{ending}" for study in studies}
            options |= {"chosen": chosen, "modalities": wanted, "required": required}
            cases, failed = predict_studies(predictor, studies, files, **options)
        else:
            cases = find_images(predictor, Path(folders[0]), wanted, required)
            files = {case: out / f"{case}{ending}" for case in cases}
            failed = predict_cases(predictor, cases, files, **options)
        rows = cohort_rows(predictor, cases, files, failed, review_below)
        lesions = cohort_lesions(rows, files)
        write_shown(json, "predict", {"cases": rows, "lesions": lesions})
        if cohort and distributed.rank() == 0:
            write_text(out / "cohort.csv", csv_text(rows))
            write_text(out / "lesions.csv", csv_text(lesions, LESION_COLUMNS))
            print_table(cohort_table(rows), make_console())
            typer.echo(f"written: {out / 'cohort.csv'} and lesions.csv")
        if review_below is not None and distributed.rank() == 0:
            for line in review_lines(rows, review_below, predictor.expectations):
                typer.echo(line)
    if failed:
        typer.echo(f"{len(failed)} of {len(cases)} cases failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


def _predict_shard(
    predictor: Predictor, cohort: Path, out: Path, shard: Shard, *, take_over: bool, json: Path | None, **options: Any
) -> None:
    """Segment one shard of a cohort, and end with 1 if a case failed."""
    from cggm_med.inference.manifest import Manifest
    from cggm_med.inference.shard_work import ShardWork
    from cggm_med.inference.shards import ShardedCohort

    work = ShardWork(predictor, out, say=typer.echo, **options)
    made_with = {
        "weights": predictor.digest,
        "flips": predictor.flips,
        "resample_to": predictor.resample_to,
        "accepted": sorted(predictor.accepted),
        **options,
    }
    sharded = ShardedCohort(out, cohort, predictor.task.modalities, shard.count, made_with)
    sharded.require_same()
    predict = sharded.predict_and_take_over if take_over else sharded.predict
    failed = predict(shard, work, typer.echo)
    write_shown(json, "predict", Manifest(out, shard).finished() or {"shard": str(shard)})
    if failed:
        typer.echo(f"{failed} cases failed; their rows say why", err=True)
        raise typer.Exit(1)


def _shard_of(words: str, cohort: Path) -> Shard:
    """The shard that ``K/N`` names, of a cohort that is there."""
    from cggm_med.data.folders.streamed import Shard, cases_of

    try:
        shard = Shard.parse(words)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    cases_of(cohort, ())
    return shard


def _label(
    run: Path,
    data: Sequence[Path],
    out: Path,
    device: str,
    *,
    modalities: Sequence[str] | None,
    required: Sequence[str],
    refused: Sequence[str],
    json: Path | None,
) -> None:
    """Label the cases of a folder or file, and write the table."""
    if refused:
        raise typer.BadParameter(f"{', '.join(refused)}: for runs that segment; this one labels the cases of a folder")
    if out.suffix.lower() != ".csv":
        from cggm_med.data.cases import stem

        raise typer.BadParameter(
            f"--out {out}: this run writes a table; expected a name such as {stem(out.name) or out.stem}.csv"
        )
    from cggm_med import distributed
    from cggm_med.device import select_device
    from cggm_med.files import require_writable, write_text
    from cggm_med.inference.batch import cohort_table
    from cggm_med.inference.labeller import Labeller
    from cggm_med.inference.manifest import is_cohort
    from cggm_med.results.tables import csv_text, print_table

    with distributed.processes(select_device(device)):
        require_writable([out], inputs=data, ours=is_cohort)
        labeller = Labeller(run, device)
        cases = labeller.find(data[0], modalities, required, typer.echo)
        rows = labeller.label(cases)
        write_shown(json, "predict", {"cases": rows})
        if distributed.rank() == 0:
            write_text(out, csv_text(rows))
            print_table(cohort_table(list({row["case"]: row for row in rows}.values())), make_console())
            typer.echo(f"written: {out}")
    failed = {row["case"]: row["failed"] for row in rows if row["failed"]}
    for case, reason in failed.items():
        typer.echo(f"{case} FAILED: {reason}", err=True)
    if failed:
        typer.echo(f"{len(failed)} of {len(cases)} cases failed", err=True)
        raise typer.Exit(1)


def _series_by_modality(words: list[str]) -> dict[str, str]:
    """Parse ``MODALITY=SERIES``; errors do not repeat the words, which may hold a patient's name."""
    pairs = [word.partition("=") for word in words]
    chosen = {name: series for name, _, series in pairs if name and series}
    if len(chosen) < len(words):
        raise typer.BadParameter("--series: expected MODALITY=SERIES, such as flair=5, for each modality once")
    return chosen
