"""Post-local SGD (arXiv 1808.07217): after the warm-up, the mean of the ranks' weights at the end of every round."""

from git_gru.train.sync.local import LocalSteps


class LocalSgd(LocalSteps):
    """With rounds of one step and an optimizer without state, what `AllReduce` does. Each rank's optimizer keeps its state."""

    def _local_step(self, number: int, local: int, whole: int) -> None:
        if number % self._recipe.every == 0:
            mean = self._flat.weights() * self._apart.share
            self._wire.add_up(mean)
            self._flat.put_weights(mean)
            self._apart.clear()
