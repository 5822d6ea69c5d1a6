"""Early stopping: a run ends when its checkpoints' validation loss has not fallen for a while (`train.patience`). Free of torch.

What counts are checkpoints, whose losses stand in their commits: so a run that was interrupted knows where it was.
"""

import math
from collections.abc import Iterable


class Patience:
    """Looks at validation losses in the order of the checkpoints; `limit` 0 never ends a run.

    Losses are compared as the commits' messages round them. `earlier` are those of the checkpoints before.
    """

    def __init__(self, limit: int, earlier: Iterable[float] = ()) -> None:
        self._limit = limit
        self._best = math.inf
        self._since = 0
        for loss in earlier:
            self.saw(loss)

    @property
    def is_over(self) -> bool:
        """Whether the last `limit` losses were no lower than the best before them."""
        return 0 < self._limit <= self._since

    def saw(self, loss: float) -> None:
        """Takes the loss of the next checkpoint."""
        rounded = float(f"{loss:.7g}")
        self._since = 0 if rounded < self._best else self._since + 1
        self._best = min(self._best, rounded)

    def __str__(self) -> str:
        return (
            f"val_loss has not fallen below {self._best:.7g} for {self._since} checkpoints (train.patience)"
        )
