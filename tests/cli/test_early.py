"""What is wrong at first sight is refused before torch is imported."""

import json
import subprocess
import sys

REFUSED = {
    "train --strategy joynt": "UnknownName: no strategy 'joynt'. Did you mean 'joint'?",
    "train --task brats2121": "UnknownName: no task 'brats2121'. Did you mean 'brats2021'?",
    "train --set optim.lrr=1": "UnknownName: no configuration key 'optim.lrr'. Did you mean 'optim.lr'?",
    "train --set train.epochs=0": "ConfigError: train.epochs is 0, expected at least 1",
    "train --device gpu": "ConfigError: train.device is gpu, expected auto, cpu, cuda or cuda:N",
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
}
ASK = """
import contextlib, io, json, sys
from cggm_med.cli.app import main
said = {}
for words in json.loads(sys.argv.pop()):
    sys.argv[1:] = words.split()
    with contextlib.redirect_stderr(io.StringIO()) as error, contextlib.suppress(SystemExit):
        main()
    said[words] = (" ".join(error.getvalue().split()), "torch" in sys.modules)
print(json.dumps(said))
"""


def test_wrong_names_keys_values_and_paths_are_refused_without_torch(tmp_path):
    """In one interpreter of their own, since that of the tests has imported torch."""
    words = [sys.executable, "-c", ASK, json.dumps(list(REFUSED))]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=True)
    said = json.loads(done.stdout)
    for words, expected in REFUSED.items():
        message, heavy = said[words]
        assert expected in message, words
        assert not heavy, words
    assert not list(tmp_path.iterdir())


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
