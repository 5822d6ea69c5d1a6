"""The registry of strategies: name → strategy, one function a file."""

from git_gru.errors import InputError
from git_gru.tensors.strategies.apply import apply_change
from git_gru.tensors.strategies.average import average
from git_gru.tensors.strategies.seam import Combine, Sides, Strategy

__all__ = ["STRATEGIES", "Combine", "Sides", "Strategy", "UnknownStrategyError", "strategy_named"]

STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            name="average",
            summary="weighted mean of the sides, A + w(B − A)",
            verb="averaged",
            combine=average,
        ),
        Strategy(
            name="apply",
            summary="add the other side's change since the base, A + (B − O)",
            verb="summed",
            combine=apply_change,
            applies_change=True,
            needs_base=True,
        ),
    )
}


class UnknownStrategyError(InputError):
    """No strategy has that name."""


def strategy_named(name: str) -> Strategy:
    """The strategy of that name. Raises `UnknownStrategyError` with the names that there are."""
    try:
        return STRATEGIES[name]
    except KeyError:
        raise UnknownStrategyError(
            f"there is no merge strategy {name!r}", hint=f"The strategies are: {', '.join(STRATEGIES)}."
        ) from None
