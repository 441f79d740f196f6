"""Several processes on one card at the same time, by CUDA's Multi-Process Service (MPS).

Without it the card runs the kernels of one process at a time, and the small kernels of these networks leave most of it
idle. On 2026-11-27 the service started and ran on an H200; training without it was not timed there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
DRIVER = "/usr/local/nvidia/bin"  #: where the program lies if it is not on the PATH
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
TRIAL = "import torch; assert float(torch.ones(9, device='cuda').sum()) == 9"
TIMEOUT = 60  #: seconds for the trial, which imports torch


def share_card(work: Path, report: Callable[[str], None], trial: str = TRIAL) -> None:
    """Start the service, with its pipes and logs in `work`, if its program is there. Processes started later use it.

    A service that an earlier call started there is used as it is: a training that still runs may need it. A process
    runs `trial` first. If that fails, processes take turns, as without the service. It is stopped if this call started
    it.
    """
    control = shutil.which(CONTROL, path=os.pathsep.join([os.environ.get("PATH", ""), DRIVER]))
    if control is None:
        report(f"{CONTROL} is not there: the stages take turns on the card")
        return
    folders = {PIPES: str(work / "mps"), LOGS: str(work / "mps-logs")}
    for folder in folders.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    used_before = any((work / "mps").iterdir())

    def run(command: list[str], answers: bytes | None = None) -> bool:
        environment = {**os.environ, **folders}
        try:
            done = subprocess.run(command, input=answers, env=environment, timeout=TIMEOUT, capture_output=True)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    # What the program answers, with a service and without one, has not been tried on a GPU.
    runs_already = used_before and run([control], b"get_server_list\n")
    started = not runs_already and run([control, "-d"])
    if not runs_already and not started:
        report(f"{control} could not be started: the stages take turns on the card")
    elif run([sys.executable, "-c", trial]):
        os.environ.update(folders)
        report("the stages share the card")
    else:
        if started:
            run([control], b"quit\n")
        report("a program failed while it shared the card: the stages take turns on it")
