"""`WrappedLM`: base class of modules that wrap a causal language model and train, generate and save like one."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin

from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.digests import hex_digest
from genrec_hf.directories import as_directory
from genrec_hf.internals.transformers import attention_of, mark_initialized
from genrec_hf.models.wrapping import Wrapping
from genrec_hf.repositories import find_folder, name_to_load

# Attributes of a model that say how its weights are quantized; TRL and PEFT read them.
_QUANTIZATION = ("quantization_method", "is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit", "hf_quantizer")


class WrappedConfig(PreTrainedConfig):
    """Configuration of a `WrappedLM`.

    A subclass must define `__init__`: otherwise transformers makes a dataclass of it, which does not call this one.

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*): configuration of the language model; a default Llama
            when not given.
        items (`int`, *optional*): number of items, if the module has a tensor with one row for each item.
        catalogue (`str`, *optional*): `catalogue_fingerprint` of the item ids.
        fingerprint (`str`, *optional*): `WrappedLM.compute_fingerprint` of the saved tensors.
        kwargs: keyword arguments of `PreTrainedConfig`.
    """

    sub_configs: ClassVar = {"text_config": AutoConfig}

    def __init__(
        self,
        text_config: Any = None,
        *,
        items: int | None = None,
        catalogue: str | None = None,
        fingerprint: str | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(text_config, dict):
            text_config = CONFIG_MAPPING[text_config["model_type"]](**text_config)
        self.text_config = CONFIG_MAPPING["llama"]() if text_config is None else text_config
        self.items, self.catalogue, self.fingerprint = items, catalogue, fingerprint
        kwargs["tie_word_embeddings"] = self.text_config.tie_word_embeddings
        # The outer config needs the value as well, or it would override that of the language model.
        kwargs.setdefault("attn_implementation", attention_of(self.text_config))
        super().__init__(**kwargs)


class WrappedLM(Wrapping, PreTrainedModel, GenerationMixin):
    """Base class of modules that wrap a causal language model; `get_peft_model` adds LoRA to the result.

    A subclass creates its submodules and buffers in `__init__`, then calls `post_init`, and overrides the methods
    whose behavior it changes: `embed` for the inputs of the language model, `forward` or `hidden_states` for its
    outputs, `take_rows` for a tensor with one row for each item. It is listed in `genrec_hf.models.WRAPPINGS`, and its
    config and class are registered with `AutoConfig` and `AutoModelForCausalLM`.

    Trained submodules (`saved_modules`) are part of the adapter. Buffers, and the settings that the language model's
    config does not have, are in a separate file in the adapter's folder, with a fingerprint of the buffers.

    Args:
        config (`WrappedConfig`): configuration of the module and of the language model.
        language_model (`PreTrainedModel`, *optional*): the model to wrap; created from `config.text_config` when not
            given.

    Attributes:
        contents (`str`): what the saved tensors are, for error messages, such as `"collaborative vectors"`.
        saved_file (`str`): name of the module's file in an adapter's folder.
        saved_tensors (`tuple[str, ...]`): names of the buffers in the file, the main one first.
        saved_settings (`tuple[str, ...]`): names of the config's values in the file, the fingerprint among them.
        settings_key (`str`): key of the module's description in the settings of a recommender.
    """

    config_class: type[WrappedConfig] = WrappedConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True
    _tied_weights_keys = {}  # noqa: RUF012  # only the language model ties weights; PEFT needs a dict here

    contents: ClassVar[str]
    saved_file: ClassVar[str]
    saved_tensors: ClassVar[tuple[str, ...]]
    saved_settings: ClassVar[tuple[str, ...]]
    settings_key: ClassVar[str]

    def __init__(self, config: WrappedConfig, language_model: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if language_model is None:
            language_model = AutoModelForCausalLM.from_config(config.text_config)
        else:
            mark_initialized(language_model)
        self.language_model = language_model

    @classmethod
    def wrap(cls, language_model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], **settings: Any) -> Self:
        """Create a module that wraps a language model, which is not copied.

        Args:
            language_model (`PreTrainedModel`): with its SID rows, before any adapter.
            tensors (`Mapping[str, torch.Tensor]`): values of the buffers by name.
            settings: keyword arguments of the config.

        Returns:
            `WrappedLM`: on the device of the language model's embedding, its trained submodules in float32, in the
            training mode of the language model.
        """
        config: Any = cls.config_class(language_model.config, **settings)
        config.name_or_path = language_model.name_or_path
        model = cls(config, language_model)
        for name in _QUANTIZATION:
            if hasattr(language_model, name):
                setattr(model, name, getattr(language_model, name))
        model.generation_config = language_model.generation_config
        device = language_model.get_input_embeddings().get_parameter("weight").device
        for name in cls.saved_modules:
            model.get_submodule(name).to(device, torch.float32)
        for name, tensor in tensors.items():
            setattr(model, name, tensor.to(device))
        config.fingerprint = model.compute_fingerprint()
        return model.train(language_model.training)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """Run the language model on the embeddings of the ids.

        Args:
            input_ids (`torch.Tensor`, *optional*): `[batch, length]`, ids that `embed` reads; required without
                `inputs_embeds`.
            attention_mask (`torch.Tensor`, *optional*): `[batch, length]`, 0 on padding.
            position_ids (`torch.Tensor`, *optional*): `[batch, length]`.
            inputs_embeds (`torch.Tensor`, *optional*): `[batch, length, hidden_size]`, result of `embed`.
            labels (`torch.Tensor`, *optional*): `[batch, length]`, token ids; `-100` where there is no loss, which
                includes the ids of vectors.
            use_cache (`bool`, *optional*): see the language model.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0): see the language model.
            **kwargs: further arguments of the language model's `forward`, such as `past_key_values`.

        Returns:
            `CausalLMOutputWithPast`: output of the language model.
        """
        if inputs_embeds is None:
            inputs_embeds = self.embed(cast(torch.Tensor, input_ids))
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the input embeddings of ids. Override it to read ids other than those of tokens.

        Args:
            input_ids (`torch.Tensor`): `[batch, length]`.

        Returns:
            `torch.Tensor`: `[batch, length, hidden_size]`.
        """
        return self.get_input_embeddings()(input_ids)

    def prompt_inputs(self, input_ids: torch.Tensor) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
        """See `Wrapping`."""
        return self.language_model, {"inputs_embeds": self.embed(input_ids)}

    def hidden_states(
        self, input_ids: torch.Tensor | None = None, inputs_embeds: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        """See `Wrapping`."""
        if inputs_embeds is None:
            inputs_embeds = self.embed(cast(torch.Tensor, input_ids))
        return self.language_model.base_model(inputs_embeds=inputs_embeds, **kwargs)

    @property
    def base_model(self) -> Any:
        """The method `hidden_states`, under the name by which TRL's losses call the decoder."""
        return self.hidden_states

    def get_input_embeddings(self) -> nn.Module:
        """See `PreTrainedModel`; returns the input embedding of the language model."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """See `PreTrainedModel`; sets the input embedding of the language model."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """See `PreTrainedModel`; returns the head of the language model."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """See `PreTrainedModel`; sets the head of the language model."""
        self.language_model.set_output_embeddings(new_embeddings)

    @property
    def holds_items(self) -> bool:
        """See `Wrapping`."""
        return self.config.items is not None

    def compute_fingerprint(self) -> str:
        """Return a digest of the current values of the saved tensors.

        Returns:
            `str`: 16 hexadecimal digits, the same for every device.
        """
        tensors = [self.get_buffer(name).detach().cpu() for name in sorted(self.saved_tensors)]
        return hex_digest((tensor.float() if tensor.is_floating_point() else tensor).numpy() for tensor in tensors)

    def refuse_other_items(self, item_ids: Sequence[str]) -> None:
        """See `Wrapping`."""
        fingerprint = catalogue_fingerprint(item_ids)
        items, catalogue = self.config.items, self.config.catalogue
        if self.holds_items and (len(item_ids) != items or catalogue not in (None, fingerprint)):
            raise ValueError(
                f"the {self.contents} are of {items} items (fingerprint {catalogue}), not of these {len(item_ids)} "
                f"({fingerprint}): they would belong to other items; compute them for this catalogue"
            )

    def reindex(self, old_item_ids: Sequence[str], new_item_ids: Sequence[str]) -> None:
        """See `Wrapping`."""
        self.refuse_other_items(old_item_ids)
        if not self.holds_items or list(old_item_ids) == list(new_item_ids):
            return
        old_rows = {item_id: row for row, item_id in enumerate(old_item_ids)}
        self.take_rows(torch.tensor([old_rows.get(item_id, -1) for item_id in new_item_ids], device=self.device))
        self.config.items, self.config.catalogue = len(new_item_ids), catalogue_fingerprint(new_item_ids)
        self.config.fingerprint = self.compute_fingerprint()

    def take_rows(self, rows: torch.Tensor) -> None:
        """Replace the rows of the items by a selection of them. A subclass with `config.items` implements it.

        Args:
            rows (`torch.Tensor`): `[new items]`, the current row of each item of the new catalogue; `-1` for an item
                that has none, which gets the values of new items.

        Raises:
            NotImplementedError: the subclass does not implement it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has a row for each item and no method `take_rows`, so its catalogue cannot "
            "change: implement the method"
        )

    @classmethod
    def card_rows(cls, description: Mapping[str, Any]) -> dict[str, str]:
        """Return the rows of the model card that describe the module.

        Args:
            description (`Mapping[str, Any]`): value of `settings_key` in the settings of a recommender.

        Returns:
            `dict[str, str]`: name and text of each row.
        """
        return {}

    def save_wrapper(self, directory: str | Path) -> None:
        """See `Wrapping`."""
        settings = {name: getattr(self.config, name) for name in self.saved_settings}
        tensors = {name: self.get_buffer(name).cpu().contiguous() for name in self.saved_tensors}
        save_file(tensors, Path(directory) / self.saved_file, {self.config.model_type: json.dumps(settings)})

    @classmethod
    def restore(cls, language_model: PreTrainedModel, directory: str | Path) -> Self:
        """Wrap a language model in the module that `save_wrapper` wrote, before its adapter is loaded.

        Args:
            language_model (`PreTrainedModel`): the base model of the adapter, with its SID rows.
            directory (`str` or `Path`): folder of the adapter.

        Returns:
            `WrappedLM`: with the saved tensors and settings.

        Raises:
            ValueError: the file has no settings, or its tensors are not those that were saved.
        """
        path, main = Path(directory) / cls.saved_file, cls.saved_tensors[0]
        try:
            with safe_open(path, "pt") as file:
                settings = json.loads(file.metadata()[cls.config_class.model_type])
                tensors = {name: file.get_tensor(name) for name in cls.saved_tensors}
            saved = cls.config_class(language_model.config, **settings).fingerprint
            model = cls.wrap(language_model, tensors, **settings)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{str(path)!r} holds no {main} with their settings: copy it again from where it was saved"
            ) from error
        if model.config.fingerprint != saved:
            raise ValueError(
                f"{str(path)!r} holds other {main} than were saved, on which the {' and '.join(cls.saved_modules)} "
                "next to it was trained: load both from one output directory"
            )
        return model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save a whole checkpoint, see `PreTrainedModel.save_pretrained`.

        The fingerprint is computed again, since a change of dtype may have rounded the tensors.

        Args:
            save_directory (`str` or `Path`): folder to write.
            *args: arguments of `PreTrainedModel.save_pretrained`.
            **kwargs: keyword arguments of `PreTrainedModel.save_pretrained`.

        Raises:
            ValueError: `save_directory` is empty or a file.
        """
        self.config.fingerprint = self.compute_fingerprint()
        super().save_pretrained(as_directory(save_directory, "save_directory"), *args, **kwargs)

    @classmethod
    def from_pretrained(cls, directory_or_repo: str | Path, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Load a whole checkpoint, written by `merge_adapter.py` or `save_pretrained`.

        Args:
            directory_or_repo (`str` or `Path`): folder or Hub id.
            *args: arguments of `PreTrainedModel.from_pretrained`.
            **kwargs: keyword arguments of `PreTrainedModel.from_pretrained`; with `use_safetensors=None`, pickles are
                read as well.

        Returns:
            `WrappedLM`: the model; with `output_loading_info=True`, a tuple of the model and the report.

        Raises:
            FileNotFoundError: there is no such folder or repository.
            ValueError: it holds an adapter (use `load_recommender` or `load_adapter`), or other tensors than the saved
                modules were trained on.
        """
        folder = find_folder(name_to_load(str(directory_or_repo)), kwargs.get("revision"), [cls.saved_file])
        if (folder / cls.saved_file).is_file():
            raise ValueError(
                f"{str(directory_or_repo)!r} holds an adapter and no whole model: use genrec_hf.load_recommender, or "
                "recipes/merge_adapter.py"
            )
        loaded = super().from_pretrained(directory_or_repo, *args, **{"use_safetensors": True} | kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        main = cls.saved_tensors[0]
        if model.get_buffer(main).dtype == torch.float32 and model.compute_fingerprint() != model.config.fingerprint:
            raise ValueError(
                f"{str(directory_or_repo)!r} holds other {main} than its config names, on which the "
                f"{' and '.join(cls.saved_modules)} was trained: load the files of one output directory"
            )
        return loaded
