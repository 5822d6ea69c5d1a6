"""Learning rate schedules: pure functions of the step."""

import math

from git_gru.train.recipe import TrainRecipe


def learning_rate(recipe: TrainRecipe, step: int) -> float:
    """The learning rate of step `step` (from 1 to `recipe.steps`).

    Linear warm-up that reaches `lr` at step `warmup`; then `lr` for ever (constant), or half a cosine from `lr` down to
    `lr · lr_final` at the last step (arXiv 1608.03983, without restarts).
    """
    if step <= recipe.warmup:
        return recipe.lr * step / recipe.warmup
    if recipe.schedule == "constant":
        return recipe.lr
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    low = recipe.lr * recipe.lr_final
    return low + (recipe.lr - low) * (1 + math.cos(math.pi * min(1.0, done))) / 2
