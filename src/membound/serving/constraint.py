"""What a request's output must obey: which tokens may come next, told before each and advanced by each."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Constraint(Protocol):
    """The state of one request's grammar. It is touched by one thread at a time."""

    def allowed(self) -> "NDArray[np.int32]":
        """Bit t % 32 of word t // 32 says whether token t may come next, an end token among them.

        Shape (ceil(vocabulary / 32),); read before the next call. RunError if nothing may.
        """
        ...

    def accept(self, token: int) -> None:
        """That token came."""
        ...
