"""What is wrong at first sight is refused before torch is imported."""

import json
import subprocess
import sys

REFUSED = {
    "train --strategy joynt": "UnknownName: no strategy 'joynt'. Did you mean 'joint'?",
    "train --task brats2121": "UnknownName: no task 'brats2121'. Did you mean 'brats2021'?",
    "train --set optim.lrr=1": "UnknownName: no configuration key 'optim.lrr'. Did you mean 'optim.lr'?",
    "train --set train.epochs=0": "ConfigError: train.epochs is 0, expected at least 1",
    "train --device gpu": "ConfigError: train.device is gpu, expected auto, cpu, cuda, cuda:N or mps",
    "train --log tensorbord": "UnknownName: no logger 'tensorbord'. Did you mean 'tensorboard'?",
    "train --seed -1": "Invalid value for '--seed'",
    "train --data nowhere": "nowhere does not exist; expected a folder or file with the data",
    "train --config nowhere.yaml": "ConfigError: cannot read nowhere.yaml: it does not exist",
    "train --resume nowhere": "CheckpointError: nowhere is not a run folder",
    "train --init nowhere": "CheckpointError: nowhere is not a run folder",
    "compare --strategies joint --task brats2121": "UnknownName: no task 'brats2121'",
    "compare --strategies joint --data nowhere": "nowhere does not exist",
    "plan nowhere": "nowhere does not exist",
    "check nowhere": "nowhere does not exist",
    "change nowhere later": "nowhere does not exist; expected a mask, or a folder",
    "evaluate nowhere": "CheckpointError: nowhere is not a run folder",
    "probe nowhere": "CheckpointError: nowhere is not a run folder",
    "calibrate nowhere": "CheckpointError: nowhere is not a run folder",
    "predict nowhere scans -o masks": "CheckpointError: nowhere is not a run folder",
    "report nowhere": "CheckpointError: nowhere is not a run folder",
    "share nowhere -o shared": "CheckpointError: nowhere is not a run folder",
    "ensemble nowhere other -o both": "CheckpointError: nowhere is not a run folder",
    "bundle export nowhere -o bundle": "CheckpointError: nowhere is not a run folder",
    "view nowhere": "CheckpointError: nowhere is not a run folder",
    "view --flair nowhere.nii.gz": "nowhere.nii.gz does not exist; expected an image",
    "compare nowhere other": "DataError: none of the folders is a run; expected folders of finished runs",
    "compare --strategies joint,cgm": "UnknownName: no strategy 'cgm'. Did you mean 'cggm'?",
    "compare --strategies joint --seeds x": "ConfigError: --seeds is x, expected how many",
    "benchmark brats2020-rfnet --phantom --seeds x": "ConfigError: --seeds is x, expected how many",
    "benchmark brats2020-rfnet --data nowhere": "nowhere does not exist",
    "reproduce cggm/iemocap --phantom --seeds x": "ConfigError: --seeds is x, expected how many",
    "reproduce cggm/iemocap --data nowhere": "nowhere does not exist",
    "rank nowhere": "nowhere does not exist; expected a folder that 'cggm-med compare' wrote",
    "evaluate --masks nowhere": "nowhere does not exist; expected a folder of masks",
    "nnunet export --data nowhere": "nowhere does not exist",
    "evaluate RUN --split tset": "UnknownName: no split 'tset'. Did you mean 'test'?",
    "evaluate RUN --subsets flair+tice": "UnknownName: no modality in this run 'tice'",
    "evaluate RUN --subsets 'flair + t1ce, tice'": "UnknownName: no modality in this run 'tice'",
    "predict RUN --FLAIR a.nii.gz -o m.nii.gz": "no modality in this run 'FLAIR'. Did you mean 'flair'?",
    "predict RUN --flair a.nii.gz -o m.nii.gz": "a.nii.gz does not exist; expected an image",
    "predict RUN --flair a.nii.gz -o m.nii.gz --devise cpu": "'devise'. Did you mean '--device'?",
    "predict RUN nowhere -o masks": "nowhere does not exist; expected a folder of images",
    "predict RUN RUN -o masks --device gpu": "ConfigError: device is gpu, expected auto, cpu, cuda",
    "train --learning-rate 0.1": "No such option: --learning-rate. Did you mean --set optim.lr=VALUE?",
    "train --max-epochs 3": "No such option: --max-epochs. Did you mean --epochs?",
    "train optim.lr=1e-3": "(optim.lr=1e-3); a setting is given as --set optim.lr=1e-3",
    "share --ouput shared": "No such option: --ouput. Did you mean --out?",
}
ASK = """
import contextlib, io, json, shlex, sys
from cggm_med.cli.app import main
said = {}
for words in json.loads(sys.argv.pop()):
    sys.argv[1:] = shlex.split(words)
    with contextlib.redirect_stderr(io.StringIO()) as error, contextlib.suppress(SystemExit):
        main()
    said[words] = (" ".join(error.getvalue().split()), "torch" in sys.modules)
print(json.dumps(said))
"""


def test_wrong_names_keys_values_and_paths_are_refused_without_torch(tmp_path):
    """In one interpreter of their own, since that of the tests has imported torch."""
    run = tmp_path / "RUN"
    run.mkdir()
    (run / "config.yaml").write_text("task: {name: brats2021, modalities: [flair, t1ce]}\n")
    words = [sys.executable, "-c", ASK, json.dumps(list(REFUSED))]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=True)
    said = json.loads(done.stdout)
    for words, expected in REFUSED.items():
        message, heavy = said[words]
        assert expected in message, words
        assert not heavy, words
    assert list(tmp_path.iterdir()) == [run]
    assert len(list(run.iterdir())) == 1


def test_tasks_are_listed_and_presets_checked_without_what_only_their_work_needs(tmp_path):
    """MONAI alone takes twice as long to import as all of the rest, torch included."""
    slow = ("monai", "torchio", "SimpleITK", "sklearn", "matplotlib", "transformers")
    listed = "import sys\nfrom cggm_med.cli.app import main\n"
    for words in (["tasks"], ["train", "--task", "brats2021", "--preset", "tinny"]):
        ran = f"sys.argv[1:] = {words}\ntry: main()\nexcept SystemExit: pass\n"
        listed += ran + f"print('\\n', [name for name in {slow} if name in sys.modules])\n"
    done = subprocess.run(
        [sys.executable, "-c", listed], capture_output=True, text=True, cwd=tmp_path, timeout=300, check=True
    )
    assert "brats2021        glioma in MRI" in done.stdout
    assert "no preset of task brats2021 'tinny'. Did you mean 'tiny'?" in done.stderr
    assert [line for line in done.stdout.splitlines() if line.strip().startswith("[")] == [" []", " []"]
