"""`LlaraForCausalLM`: a causal language model that reads projected collaborative vectors of items in its prompts."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from genrec_hf.checks import check_least
from genrec_hf.models.collaborative import check_vectors
from genrec_hf.models.wrapped_lm import WrappedConfig, WrappedLM


class LlaraConfig(WrappedConfig):
    """Configuration of a `LlaraForCausalLM`.

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*): configuration of the language model; a default Llama
            when not given.
        items (`int`, defaults to 1): number of items in the catalogue.
        vector_size (`int`, defaults to 64): dimension of a collaborative vector.
        projector_size (`int`, *optional*): dimension of the projector's hidden layer; `hidden_size` of the language
            model when not given.
        first_vector (`int`, *optional*): id of item 0's vector in `input_ids`, `first_vector + item` for other items;
            `vocab_size` of the language model when not given.
        vector_dropout (`float`, defaults to 0.05): probability in `[0, 1)` that training replaces a vector by the
            learned fallback of items without one; with 0, the fallback is trained only by such items.
        catalogue (`str`, *optional*): `catalogue_fingerprint` of the item ids.
        vectors (`str`, *optional*): fingerprint of the vectors, and of which items have one.
        kwargs: keyword arguments of `PreTrainedConfig`.

    Raises:
        ValueError: `vector_dropout` is outside `[0, 1)`, or `projector_size` below 1.
    """

    model_type = "llara"
    attribute_map: ClassVar = {"fingerprint": "vectors"}

    def __init__(
        self,
        text_config: Any = None,
        *,
        items: int = 1,
        vector_size: int = 64,
        projector_size: int | None = None,
        first_vector: int | None = None,
        vector_dropout: float = 0.05,
        catalogue: str | None = None,
        vectors: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0 <= vector_dropout < 1:
            raise ValueError(f"got vector_dropout={vector_dropout}; it must be from 0 to below 1")
        check_least(1, projector_size=projector_size)
        super().__init__(text_config, items=items, catalogue=catalogue, fingerprint=vectors, **kwargs)
        self.vector_size = vector_size
        self.projector_size = projector_size or self.text_config.hidden_size
        self.first_vector = self.text_config.vocab_size if first_vector is None else first_vector
        self.vector_dropout = vector_dropout


class Projector(nn.Module):
    """Projector from collaborative vectors to input embeddings of the language model: `Linear-GELU-Linear`.

    It has a fallback: a learned collaborative vector for items that have none.

    Args:
        vector_size (`int`): dimension of a collaborative vector.
        projector_size (`int`): dimension of the hidden layer.
        hidden_size (`int`): dimension of the language model's embeddings.
    """

    def __init__(self, vector_size: int, projector_size: int, hidden_size: int) -> None:
        super().__init__()
        self.fallback = nn.Parameter(torch.zeros(vector_size))
        self.layers = nn.Sequential(
            nn.Linear(vector_size, projector_size), nn.GELU(), nn.Linear(projector_size, hidden_size)
        )

    def forward(self, vectors: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Project vectors, with the fallback in place of unknown ones.

        Args:
            vectors (`torch.Tensor`): `[n, vector_size]`.
            known (`torch.Tensor`): `[n]`, bool; `False` for the fallback.

        Returns:
            `torch.Tensor`: `[n, hidden_size]`.
        """
        return self.layers(torch.where(known[:, None], vectors, self.fallback))


class LlaraForCausalLM(WrappedLM):
    """Causal language model whose input may hold collaborative vectors of items (LLaRA, arXiv:2312.02445).

    In `input_ids`, the id `config.first_vector + item`, which is above every token id, means the vector of an item; in
    `inputs_embeds`, its position holds the projected vector. Attention masks, padding, collation, packing and
    `generate` therefore work as with token ids. The module wraps any causal language model, and `get_peft_model` adds
    LoRA to the result. `from_language_model` creates a new one.

    What differs from LLaRA: the dimensions of the projector, SID tokens before the vectors, a learned fallback for
    items without a vector, vectors scaled to a mean square of 1, and an initialization of the projector whose outputs
    have the standard deviation of the token embeddings.

    Args:
        config (`LlaraConfig`): configuration of the module and of the language model.
        language_model (`PreTrainedModel`, *optional*): the model to wrap; created from `config.text_config` when not
            given.
    """

    config_class = LlaraConfig
    base_model_prefix = "llara"
    contents = "collaborative vectors"
    saved_modules = ("projector",)
    saved_file = "collaborative.safetensors"
    saved_tensors = ("vectors", "known")
    saved_settings = ("first_vector", "projector_size", "vector_dropout", "catalogue", "vectors")
    settings_key = "collaborative_vectors"
    vectors: torch.Tensor
    known: torch.Tensor

    def __init__(self, config: LlaraConfig, language_model: PreTrainedModel | None = None) -> None:
        super().__init__(config, language_model)
        self.projector = Projector(config.vector_size, config.projector_size, config.text_config.hidden_size)
        items = cast(int, config.items)
        self.register_buffer("vectors", torch.zeros(items, config.vector_size))
        self.register_buffer("known", torch.zeros(items, dtype=torch.bool))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Projector):
            nn.init.zeros_(module.fallback)

    @classmethod
    def from_language_model(
        cls,
        language_model: PreTrainedModel,
        vectors: np.ndarray | torch.Tensor,
        known: np.ndarray | None = None,
        **settings: Any,
    ) -> "LlaraForCausalLM":
        """Wrap a language model with collaborative vectors and a newly initialized projector.

        Args:
            language_model (`PreTrainedModel`): with its SID rows, before any adapter; it is not copied.
            vectors (`np.ndarray` or `torch.Tensor`): `[items, vector_size]`, of any dtype and device, in row order.
            known (`np.ndarray`, *optional*): `[items]`, bool, which items have a vector; all when not given. The rows
                of other items are not read.
            settings: `projector_size`, `vector_dropout`, `catalogue` of `LlaraConfig`.

        Returns:
            `LlaraForCausalLM`: on the device of the language model's embedding, in its training mode.

        Raises:
            ValueError: a shape does not fit, no item has a vector, or a known vector has NaN or is all zeros.
        """
        matrix, mask = check_vectors(vectors, known)
        matrix = matrix / matrix[mask].pow(2).mean().sqrt()
        rows = language_model.get_input_embeddings().get_parameter("weight")
        model = cls.wrap(language_model, {"vectors": matrix, "known": mask}, first_vector=len(rows), **settings)
        with torch.no_grad():
            last = cast(nn.Linear, model.projector.layers[-1])
            projected_std = model.project(mask.nonzero()[:, 0].to(model.vectors.device)).std()
            last.weight *= model.get_input_embeddings().get_parameter("weight").float().std() / projected_std
        return model

    @classmethod
    def wrap(cls, language_model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], **settings: Any) -> Self:
        """See `WrappedLM.wrap`."""
        items, vector_size = tensors["vectors"].shape
        return super().wrap(language_model, tensors, items=items, vector_size=vector_size, **settings)

    @property
    def first_vector(self) -> int:
        """See `Wrapping`."""
        return self.config.first_vector

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of tokens and the projected vectors of items.

        Args:
            input_ids (`torch.Tensor`): `[batch, length]`, ids of tokens and vectors.

        Returns:
            `torch.Tensor`: `[batch, length, hidden_size]`.

        Raises:
            ValueError: an id is neither of a token nor of an item's vector.
        """
        first, count = self.config.first_vector, self.config.items
        is_vector = input_ids >= first
        embedded = self.get_input_embeddings()(input_ids.masked_fill(is_vector, 0))
        items = input_ids[is_vector] - first
        if len(items) and int(items.max()) >= count:
            raise ValueError(
                f"got id {int(items.max()) + first}: token ids end at {first} and those of {count} vectors at "
                f"{first + count}, so the prompts are of another catalogue than the model; make them from its items"
            )
        if len(items):
            return embedded.masked_scatter(is_vector[..., None], self.project(items).to(embedded.dtype))
        # Without a vector in the batch the projector needs a zero gradient: distributed training waits for one.
        return embedded + 0 * self.project(items.new_zeros(1)).sum().to(embedded.dtype) if self.training else embedded

    def project(self, items: torch.Tensor) -> torch.Tensor:
        """Return the projected vectors of items; in training, `vector_dropout` replaces some by the fallback.

        Args:
            items (`torch.Tensor`): `[n]`, item rows.

        Returns:
            `torch.Tensor`: `[n, hidden_size]`.
        """
        known = self.known[items]
        if self.training and self.config.vector_dropout:
            known = known & (torch.rand(len(items), device=items.device) >= self.config.vector_dropout)
        return self.projector(self.vectors[items], known)

    def alignment(self, input_ids: torch.Tensor, text_vectors: torch.Tensor) -> torch.Tensor:
        """Compute the distance of projected vectors to the mean token embeddings of their items' texts.

        It is the mean of `||p_i - t_i||^2 / mean_j ||t_j||^2` over the distinct items `i` of a batch, with `j` over
        the catalogue: 0 for equal vectors, about 1 for projections of 0.

        Args:
            input_ids (`torch.Tensor`): `[batch, length]`, ids of tokens and vectors; the latter give the items.
            text_vectors (`torch.Tensor`): `[items, hidden_size]`, from `text_vectors`; items with zeros are left out.

        Returns:
            `torch.Tensor`: a scalar of 0 or more, 0 without items; it has gradients for the projector.
        """
        items = torch.unique(input_ids[input_ids >= self.config.first_vector] - self.config.first_vector)
        items = items[self.known[items] & text_vectors[items].any(dim=1)]
        if not len(items):
            return 0 * self.projector(self.vectors[:1], self.known[:1]).sum()
        projected = self.projector(self.vectors[items], self.known[items]).float()
        distance = (projected - text_vectors[items]).pow(2).sum(dim=1).mean()
        return distance / text_vectors.pow(2).sum(dim=1).mean()

    @torch.no_grad()
    def text_vectors(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the mean token embedding of each item's text, for `alignment`.

        Args:
            texts (`Sequence[Sequence[int]]`): `[items]`, token ids of each item's text, possibly none.

        Returns:
            `torch.Tensor`: `[items, hidden_size]`, float32; zeros for items without text.
        """
        embedding, device = self.get_input_embeddings(), self.vectors.device
        means = [embedding(torch.tensor(ids or [0], device=device)).float().mean(dim=0) * bool(ids) for ids in texts]
        return torch.stack(means)

    def take_rows(self, rows: torch.Tensor) -> None:
        """See `WrappedLM.take_rows`; new items have the fallback."""
        self.known = self.known[rows] & (rows >= 0)
        self.vectors = torch.where(self.known[:, None], self.vectors[rows], 0)

    def settings(self) -> dict[str, Any]:
        """See `Wrapping`."""
        return {self.settings_key: {"known": int(self.known.sum()), "vector_size": self.config.vector_size}}

    @classmethod
    def card_rows(cls, description: Mapping[str, Any]) -> dict[str, str]:
        """See `WrappedLM.card_rows`."""
        size = f"of {description['known']:,} items, dimension {description['vector_size']}"
        return {"Collaborative vectors": f"{size}, projected, after each semantic ID of a history"}


AutoConfig.register("llara", LlaraConfig)
AutoModelForCausalLM.register(LlaraConfig, LlaraForCausalLM)
