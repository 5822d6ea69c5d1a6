"""Incidents: what the guard caught in a run, as the run's record keeps it. Free of torch.

An *incident* names its cause as exactly as it is known: the step, the samples of the batch, the rank, the norms of the
gradients by layer. Its `kind` is one of

| kind | what was seen |
| --- | --- |
| `loss` | a training loss that is NaN or infinite |
| `gradients` | gradients that are NaN or infinite |
| `weights` | weights that are NaN or infinite |
| `validation` | a validation loss that is NaN or infinite |
| `spike` | training losses far above those of the steps before |
| `explosion` | gradients far larger than those of the steps before |

and its `action` what followed: `stop`, `rollback`, or `none` for a spike or explosion that went by on its own.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

MOST_SAMPLES = 1024
"""Sample numbers that an incident lists; a larger batch is told by its first ones."""


@dataclass(frozen=True, kw_only=True)
class Incident:
    """One incident; see the module's tables.

    `samples` are numbers of training samples: those of `rank` where the rank is known, else of the whole batch. A
    norm of None stands for NaN or infinity. After a rollback to the checkpoint of step `back_to` (0: the start),
    `skipped` counts the batches left out in the whole run so far, and `lr_scale` multiplies the recipe's learning rate.
    """

    kind: str
    step: int
    message: str
    action: str = "stop"
    rank: int | None = None
    samples: tuple[int, ...] = ()
    gradient_norms: Mapping[str, float | None] = field(default_factory=dict)
    back_to: int | None = None
    skipped: int = 0
    lr_scale: float = 1.0

    def as_json(self) -> dict[str, Any]:
        """The incident as plain JSON values."""
        return asdict(self)


def parse_incident(values: Mapping[str, Any]) -> Incident:
    """The incident that `as_json` made `values` of. Raises ValueError, TypeError or KeyError for anything else."""
    norms = {str(name): finite(norm) for name, norm in dict(values.get("gradient_norms", {})).items()}
    return Incident(
        kind=str(values["kind"]),
        step=int(values["step"]),
        message=str(values["message"]),
        action=str(values.get("action", "stop")),
        rank=None if values.get("rank") is None else int(values["rank"]),
        samples=tuple(int(sample) for sample in values.get("samples", ())),
        gradient_norms=norms,
        back_to=None if values.get("back_to") is None else int(values["back_to"]),
        skipped=int(values.get("skipped", 0)),
        lr_scale=float(values.get("lr_scale", 1.0)),
    )


def finite(number: float | None) -> float | None:
    """`number`, or None for what JSON has no number for."""
    return None if number is None or not math.isfinite(number) else float(number)


def sentence(incident: Incident) -> str:
    """The incident for people, with what followed."""
    if incident.action != "rollback":
        return incident.message
    slower = f", learning rate times {incident.lr_scale:.3g}" if incident.lr_scale != 1 else ""
    start = f"step {incident.back_to}" if incident.back_to else "the start"
    return f"{incident.message}; back to {start}, leaving out the batches since{slower}"


@dataclass(frozen=True, kw_only=True)
class Course:
    """What rollbacks have changed in a run: how the engine goes on from any step, also after a resume.

    Step k takes the batch k + `skipped` of the data, with the recipe's learning rate times `lr_scale`.
    """

    rollbacks: int = 0
    skipped: int = 0
    lr_scale: float = 1.0
