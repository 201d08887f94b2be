"""What the parts of the package know of each other's 3D content: the Scene protocol. Imports nothing of the
package.

World: z up, front +x, right-handed; scenes live in the cube [-1, 1]^3. Signed distances are positive outside.
A scene is a batch of scenes, one per prompt: axis `batch` of every tensor is the prompt, axis `n` any set of
points.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor


class TextCondition(NamedTuple):
    """What a text conditioner hands to a generator.

    Attributes:
        pooled: one vector per prompt.
        tokens: one vector per token.
        mask: True where a token is text, False where it is padding.
    """

    pooled: Float[Tensor, "batch d"]
    tokens: Float[Tensor, "batch token d_token"]
    mask: Bool[Tensor, "batch token"]


@runtime_checkable
class Scene(Protocol):
    """A batch of scenes, as renderers, meshing and regularizers see them.

    `points` may be expanded along `batch` (stride 0) where all prompts share them; a scene may use that to
    work once for all prompts, and has to return the same values as for a copy.
    """

    def sdf(self, points: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n"]:
        """Signed distance, > 0 outside."""
        ...

    def query(
        self, points: Float[Tensor, "batch n 3"]
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n feature"]]:
        """Signed distance, and features of which the first three are rgb in [0, 1]."""
        ...

    def background(self, directions: Float[Tensor, "batch n 3"]) -> Float[Tensor, "batch n 3"]:
        """Rgb in [0, 1] of what a ray of this unit direction sees behind the scene."""
        ...


class SceneBatch(Scene, Protocol):
    """What a generator returns: scenes that can also be had one by one."""

    def row(self, index: int) -> Scene:
        """The scene of one prompt of the batch, as a batch of one."""
        ...
