"""Several processes of one function, forked from the test: they have what it has imported, and find one another."""

import datetime
import multiprocessing
import tempfile
import traceback
import warnings
from pathlib import Path

import torch
from torch import distributed

SECONDS = 60


def together(count, function, *arguments):
    """What ``function(*arguments)`` returns in each of ``count`` gloo processes: tensors and plain values."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # Python 3.12
        forks = multiprocessing.get_context("fork")
        processes = [
            forks.Process(target=_one, args=(Path(folder), rank, count, function, arguments)) for rank in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(SECONDS)
            process.kill()
        failed = [path.read_text() for path in Path(folder).glob("error*")]
        assert not failed, "\n".join(failed)
        assert [process.exitcode for process in processes] == [0] * count, f"no answer within {SECONDS} s"
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(count)]


def _one(folder, rank, count, function, arguments):
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group(
        "gloo", meeting, timeout=datetime.timedelta(seconds=SECONDS), rank=rank, world_size=count
    )
    try:
        torch.save(function(*arguments), folder / f"{rank}.pt")
        distributed.barrier()
    except BaseException:
        (folder / f"error{rank}").write_text(traceback.format_exc())
        raise
    finally:
        distributed.destroy_process_group()
