"""What decoders share, whatever head they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from llmcore import _core, nn
from llmcore.autograd import Generator, Tensor, checkpoint
from llmcore.errors import ConfigError
from llmcore.models.cache import KVCache
from llmcore.models.inputs import Positions
from llmcore.models.packed import Documents
from llmcore.models.pretrained import PreTrainedModel


class Decoder(PreTrainedModel):
    """A model whose tokens see those before them. A subclass has `hidden_states`."""

    limit_field: ClassVar[str] = "max_position_embeddings"  # the field of the config that limits the length

    def hidden_states(
        self,
        ids: _core.Tensor,
        positions: Positions | None,
        lengths: _core.Tensor | Documents | None,
        past: KVCache | None,
        checkpoint_with: Generator | None,
    ) -> Tensor:
        """ids (B, T), positions or None for 0 .. T-1, lengths (B) or the documents of packed rows -> what the
        head sees, (B, T, C)."""
        raise NotImplementedError

    def check_length(self, length: int) -> None:
        """Raises ConfigError for a sequence that is longer than what the model can see."""
        limit = getattr(self.config, self.limit_field)
        if length > limit:
            raise ConfigError(
                f"{type(self).__name__}: a sequence of {length} tokens is longer than the model's {self.limit_field}="
                f"{limit}; cut it, or train a model with more positions"
            )


def run_blocks(
    blocks: Sequence[nn.Module], residual: Tensor, checkpoint_with: Generator | None, *arguments: Any
) -> tuple[Tensor, Tensor]:
    """Runs pre-norm blocks `block(residual, x, *arguments) -> (residual, x)`, where x is what the block before wants
    added to the residual stream (None for the first); the last one's pair is left for the last norm to add.

    With `checkpoint_with`, the generator of dropout, blocks are recomputed in the backward pass.
    """
    x: Tensor | None = None
    for block in blocks:
        if checkpoint_with is None:
            residual, x = block(residual, x, *arguments)
        elif x is None:
            residual, x = checkpoint(lambda r, b=block: b(r, None, *arguments), residual, generator=checkpoint_with)
        else:
            residual, x = checkpoint(lambda r, y, b=block: b(r, y, *arguments), residual, x, generator=checkpoint_with)
    assert x is not None  # models have at least one block
    return residual, x
