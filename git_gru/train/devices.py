"""What kind of device the workers of a machine will compute on, as a launcher can tell: free of torch (`world` chooses it)."""

import subprocess
import sys
from pathlib import Path

_DEVICES = Path("/dev")
_GPUS = ("nvidia[0-9]*", "kfd", "dxg")
"""What the drivers of NVIDIA and AMD, and WSL's, put into /dev where there is a GPU."""
_ASK = "import torch; print(torch.cuda.is_available())"


def device_kind(wanted: str) -> str:
    """`cpu` or `cuda`: what `launch.device` = `wanted` comes to here.

    Where there may be a GPU, a process asks torch, which takes seconds.
    """
    if wanted != "auto":
        return wanted
    if not any(found for pattern in _GPUS for found in _DEVICES.glob(pattern)):
        return "cpu"
    asked = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=False)
    return "cuda" if asked.stdout.strip() == "True" else "cpu"
