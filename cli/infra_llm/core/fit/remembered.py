"""Results that are kept, since a fleet has many hosts and few kinds of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from infra_llm.core.model import ModelProfile

Result = TypeVar("Result")


class Remembered(Generic[Result]):
    """Results by the model and by all else that they depend on; the first made go first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: OrderedDict[tuple[int, Hashable], tuple[ModelProfile, Result]] = OrderedDict()

    def of(self, model: ModelProfile, key: Hashable, make: Callable[[], Result]) -> Result:
        """The result for `key`, made where it is not known.

        A model is the same when it is the same object; the entry keeps it alive, so that its id
        can't become another's.
        """
        place = (id(model), key)
        known = self._kept.get(place)
        if known is None:
            known = (model, make())
            self._kept[place] = known
            if len(self._kept) > self.most:
                self._kept.popitem(last=False)
        return known[1]

    def clear(self) -> None:
        self._kept.clear()
