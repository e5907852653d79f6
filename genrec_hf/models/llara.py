"""`LlaraForCausalLM`: a causal language model that also reads items as projected collaborative vectors."""

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
    """What a `LlaraForCausalLM` is.

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*): of the language model.
        items (`int`, defaults to 1): size of the catalogue.
        vector_size (`int`, defaults to 64): width of a collaborative vector.
        projector_size (`int`, *optional*): width between the two layers of the projector; the language model's own.
        first_vector (`int`, *optional*): id that stands for the vector of item 0; `first_vector + item` for another.
        vector_dropout (`float`, defaults to 0.05): share of the vectors that training replaces by the learned fallback
            of items without one; with 0 it is learnt only where such items are trained on.
        catalogue (`str`, *optional*): `catalogue_fingerprint` of the item ids.
        vectors (`str`, *optional*): fingerprint of the matrix, and of which items have a vector.
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
            raise ValueError(f"got vector_dropout={vector_dropout}; give a share from 0 to below 1")
        check_least(1, projector_size=projector_size)
        super().__init__(text_config, items=items, catalogue=catalogue, fingerprint=vectors, **kwargs)
        self.vector_size = vector_size
        self.projector_size = projector_size or self.text_config.hidden_size
        self.first_vector = self.text_config.vocab_size if first_vector is None else first_vector
        self.vector_dropout = vector_dropout


class Projector(nn.Module):
    """Collaborative vectors in, embeddings of the language model out: `Linear-GELU-Linear`, and the fallback.

    The fallback is a learned collaborative vector, for items that have none.
    """

    def __init__(self, vector_size: int, projector_size: int, hidden_size: int) -> None:
        super().__init__()
        self.fallback = nn.Parameter(torch.zeros(vector_size))
        self.layers = nn.Sequential(
            nn.Linear(vector_size, projector_size), nn.GELU(), nn.Linear(projector_size, hidden_size)
        )

    def forward(self, vectors: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """`[n, hidden_size]` of `vectors [n, vector_size]`, the fallback where not `known [n]`."""
        return self.layers(torch.where(known[:, None], vectors, self.fallback))


class LlaraForCausalLM(WrappedLM):
    """A causal language model whose sequences may hold collaborative vectors of items (LLaRA, arXiv:2312.02445).

    The id `config.first_vector + item`, above every token, is the place of an item's vector: projected, it stands in
    its `inputs_embeds`. Masks, padding, collation, packing and `generate` stay those of ordinary token ids, and every
    place names its own item. It works with any causal language model, and `get_peft_model` goes around it.

    What differs from LLaRA: the projector's widths, SID tokens beside the vectors, a learned fallback for items that
    have none, and vectors scaled to a mean square of 1 before the projector, whose first output has the spread of the
    token embeddings.

    Args:
        config (`LlaraConfig`): its shape.
        language_model (`PreTrainedModel`, *optional*): made from `config.text_config` unless given.
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
        """A new one: a language model, a matrix of collaborative vectors, and a projector to be trained.

        Args:
            language_model (`PreTrainedModel`): with its SID rows, before any adapter; kept, not copied.
            vectors (`np.ndarray` or `torch.Tensor`): `[items, vector_size]`, of any dtype and device, in row order.
            known (`np.ndarray`, *optional*): `[items]`, which of them have a vector; the rows of others are not read.
            settings: `projector_size`, `vector_dropout`, `catalogue` of `LlaraConfig`.

        Raises:
            ValueError: on a matrix of another shape, one with NaN or zeros where a vector is known, or none known.
        """
        matrix, mask = check_vectors(vectors, known)
        matrix = matrix / matrix[mask].pow(2).mean().sqrt()
        rows = language_model.get_input_embeddings().get_parameter("weight")
        model = cls.wrap(language_model, {"vectors": matrix, "known": mask}, first_vector=len(rows), **settings)
        with torch.no_grad():
            last = cast(nn.Linear, model.projector.layers[-1])
            spread = model.project(mask.nonzero()[:, 0].to(model.vectors.device)).std()
            last.weight *= model.get_input_embeddings().get_parameter("weight").float().std() / spread
        return model

    @classmethod
    def wrap(cls, language_model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], **settings: Any) -> Self:
        """See `WrappedLM`."""
        items, vector_size = tensors["vectors"].shape
        return super().wrap(language_model, tensors, items=items, vector_size=vector_size, **settings)

    @property
    def first_vector(self) -> int:
        """See `Wrapping`."""
        return self.config.first_vector

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings `[batch, length, hidden_size]` of tokens and, projected, of vectors.

        Raises:
            ValueError: on an id that is neither a token nor the place of an item's vector.
        """
        first, count = self.config.first_vector, self.config.items
        place = input_ids >= first
        embedded = self.get_input_embeddings()(input_ids.masked_fill(place, 0))
        items = input_ids[place] - first
        if len(items) and int(items.max()) >= count:
            raise ValueError(
                f"got id {int(items.max()) + first}: tokens end at {first}, and the vectors of {count} items at "
                f"{first + count}; prompts and model are of different catalogues"
            )
        if len(items):
            return embedded.masked_scatter(place[..., None], self.project(items).to(embedded.dtype))
        # Without a vector in the batch the projector still has a zero to send back, which several processes wait for.
        return embedded + 0 * self.project(items.new_zeros(1)).sum().to(embedded.dtype) if self.training else embedded

    def project(self, items: torch.Tensor) -> torch.Tensor:
        """Projected vectors `[n, hidden_size]` of item rows `[n]`; in training some are the fallback's."""
        known = self.known[items]
        if self.training and self.config.vector_dropout:
            known = known & (torch.rand(len(items), device=items.device) >= self.config.vector_dropout)
        return self.projector(self.vectors[items], known)

    def alignment(self, input_ids: torch.Tensor, text_vectors: torch.Tensor) -> torch.Tensor:
        """How far projected vectors are from the mean embedding of their items' text, one number.

        The mean over the items of a batch, each counted once, of `||p_i - t_i||^2 / mean_j ||t_j||^2`, `j` over the
        catalogue: 1 for projections that are 0, 0 for equal ones.

        Args:
            input_ids (`torch.Tensor`): `[batch, length]`; the places of vectors name the items.
            text_vectors (`torch.Tensor`): `[items, hidden_size]`, from `text_vectors`; zeros do not count.
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
        """`[items, hidden_size]` float32, the mean embedding of each item's text, of token ids; zeros without text."""
        rows, device = self.get_input_embeddings(), self.vectors.device
        means = [rows(torch.tensor(ids or [0], device=device)).float().mean(dim=0) * bool(ids) for ids in texts]
        return torch.stack(means)

    def take_rows(self, rows: torch.Tensor) -> None:
        """See `WrappedLM`; new items have the fallback."""
        self.known = self.known[rows] & (rows >= 0)
        self.vectors = torch.where(self.known[:, None], self.vectors[rows], 0)

    def settings(self) -> dict[str, Any]:
        """See `Wrapping`."""
        return {self.settings_key: {"known": int(self.known.sum()), "vector_size": self.config.vector_size}}

    @classmethod
    def card_rows(cls, described: Mapping[str, Any]) -> dict[str, str]:
        """See `WrappedLM`."""
        size = f"of {described['known']:,} items, {described['vector_size']} wide"
        return {"Collaborative vectors": f"{size}, projected behind the semantic IDs of a history"}


AutoConfig.register("llara", LlaraConfig)
AutoModelForCausalLM.register(LlaraConfig, LlaraForCausalLM)
