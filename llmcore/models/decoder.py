"""What decoders share, whatever head they have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from llmcore import _core, nn
from llmcore.autograd import Generator, Tensor, checkpoint
from llmcore.errors import ConfigError
from llmcore.models.config import ModelConfig
from llmcore.models.pretrained import PreTrainedModel
from llmcore.nn.layers import Initializer


class Decoder(PreTrainedModel):
    """A model whose tokens see those before them: the blocks, which are `base_model`, and a head.

    `base_model(ids, positions, lengths, past, checkpoint_with)` takes ids (B, T), positions or None for 0 .. T-1,
    lengths (B) or the documents of packed rows, a cache or None, and the generator of dropout if blocks are to be
    recomputed in the backward pass; it gives what the head sees, (B, T, C).
    """

    base_model_class: ClassVar[Callable[..., nn.Module]]
    base_model_prefix: ClassVar[str]  # the attribute that holds it, and the first part of its parameters' names
    limit_field: ClassVar[str] = "max_position_embeddings"  # the field of the config that limits the length

    def __init__(
        self,
        config: ModelConfig,
        seed: int = 42,
        dtype: _core.DType = _core.DType.float32,
        device: str = "cpu",
        initialize: bool = True,
    ):
        super().__init__(config, seed)
        init = Initializer(seed if initialize else None, dtype, device)
        prefix = self.base_model_prefix
        setattr(self, prefix, self.base_model_class(config, init, prefix, self.generator))
        self.add_head(init)

    def add_head(self, init: Initializer) -> None:
        """Makes the layers that stand on `base_model`."""
        raise NotImplementedError

    @property
    def base_model(self) -> Any:
        """Everything but the head."""
        return getattr(self, self.base_model_prefix)

    def get_input_embeddings(self) -> nn.Embedding:
        """The layer that makes vectors of token ids."""
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
