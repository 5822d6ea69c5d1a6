"""The message of a checkpoint commit: a subject, and trailers that programs read.

    train: step 400, val_loss 1.470

    Gru-Run: 260412-101530-k3f
    Gru-Step: 400
    Gru-Metric-val-loss: 1.470312
    Gru-Parent-Model: <digest of the model that the source commit held>
    Gru-Resume: <digest of the resume state that belongs to it>

and of a site that trains together with others (`git_gru.git.sites`) also

    Gru-Site: <the site's name>
    Gru-Round: <rounds that its course has behind it>
    Gru-Samples: <samples that it has learnt from since the checkpoint before>

Git takes letters, digits and `-` in a trailer's key (with anything else, `git log --format=%(trailers)` shows none of them),
so all else in a metric's name is written as `-` there, and a `-` is read back as `_`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

RUN, STEP, METRIC, PARENT_MODEL = "Gru-Run", "Gru-Step", "Gru-Metric-", "Gru-Parent-Model"
RESUME = "Gru-Resume"
SITE, ROUND, SAMPLES = "Gru-Site", "Gru-Round", "Gru-Samples"
_NO_KEY = re.compile(r"[^A-Za-z0-9]")
_TRAILER = re.compile(r"(Gru-[A-Za-z0-9-]+):[ \t]*(.*)")


@dataclass(frozen=True, kw_only=True)
class SiteRound:
    """What the checkpoint of a site says of its part in a round; see the module."""

    site: str
    round: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint commit's message says. `site` is None where a run trains by itself."""

    run: str
    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    parent_model: str | None = None
    resume: str | None = None
    site: SiteRound | None = None


def checkpoint_message(info: CheckpointInfo) -> str:
    """The whole commit message. The first metric stands in the subject too; values keep 7 significant digits."""
    subject = f"train: step {info.step}"
    for name, value in list(info.metrics.items())[:1]:
        subject += f", {' '.join(name.split())} {value:.3f}"
    lines = [f"{RUN}: {info.run}", f"{STEP}: {info.step}"]
    lines += [f"{METRIC}{_NO_KEY.sub('-', name)}: {value:.7g}" for name, value in info.metrics.items()]
    if info.parent_model is not None:
        lines.append(f"{PARENT_MODEL}: {info.parent_model}")
    if info.resume is not None:
        lines.append(f"{RESUME}: {info.resume}")
    if info.site is not None:
        at = info.site
        lines += [f"{SITE}: {at.site}", f"{ROUND}: {at.round}", f"{SAMPLES}: {at.samples}"]
    return "\n".join([subject, "", *lines, ""])


def read_trailers(message: str) -> dict[str, str]:
    """The `Gru-…` trailers in the last paragraph of a commit's message."""
    last = message.rstrip().rpartition("\n\n")[2]
    return {found[1]: found[2].strip() for line in last.splitlines() if (found := _TRAILER.fullmatch(line))}


def read_metrics(trailers: Mapping[str, str]) -> dict[str, float]:
    """The metrics among trailers: name -> value. What is no finite number is left out."""
    found = {}
    for key, value in trailers.items():
        if key.startswith(METRIC):
            try:
                number = float(value)
            except ValueError:
                continue
            if math.isfinite(number):
                found[key.removeprefix(METRIC).replace("-", "_")] = number
    return found


def parse_checkpoint(message: str) -> CheckpointInfo | None:
    """What `message` says of a checkpoint, or None when it is the message of another commit."""
    trailers = read_trailers(message)
    try:
        return CheckpointInfo(
            run=trailers[RUN],
            step=int(trailers[STEP]),
            metrics=read_metrics(trailers),
            parent_model=trailers.get(PARENT_MODEL),
            resume=trailers.get(RESUME),
            site=_site_round(trailers),
        )
    except (KeyError, ValueError):
        return None


def _site_round(trailers: Mapping[str, str]) -> SiteRound | None:
    """Raises ValueError, KeyError where it is said by half."""
    if SITE not in trailers:
        return None
    return SiteRound(site=trailers[SITE], round=int(trailers[ROUND]), samples=int(trailers[SAMPLES]))
