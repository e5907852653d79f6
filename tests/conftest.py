"""A planted toy world, a toy tokenizer and tiny models of every supported family, all built in memory."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
if "PYTEST_XDIST_WORKER" in os.environ:  # several at once: a core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hub_server import HubServer, running_hub
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from genrec_hf.data import InteractionData, RawData, prepare
from genrec_hf.semantic_ids import SemanticIds

# A busy machine is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

CLUSTERS, PER_CLUSTER = 4, 6
WORDS = ["red", "green", "blue", "black"]
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


@pytest.fixture(scope="session")
def toy_raw() -> RawData:
    """24 items in 4 clusters; a user stays in a cluster and goes round it in order, so the next item is known."""
    rng = np.random.default_rng(0)
    rows = range(CLUSTERS * PER_CLUSTER)
    items = pd.DataFrame(
        {
            "item_id": [f"i{item}" for item in rows],
            "title": [f"{WORDS[item // PER_CLUSTER]} thing {item % PER_CLUSTER}" for item in rows],
            "categories": [WORDS[item // PER_CLUSTER] for item in rows],
        }
    )
    events = []
    for user in range(60):
        cluster, start = user % CLUSTERS, int(rng.integers(PER_CLUSTER))
        for step in range(5):
            item = cluster * PER_CLUSTER + (start + step) % PER_CLUSTER
            events.append({"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": 100 + step})
    return RawData(name="toy", interactions=pd.DataFrame(events), items=items)


@pytest.fixture(scope="session")
def toy_data(toy_raw: RawData) -> InteractionData:
    return prepare(toy_raw)


@pytest.fixture(scope="session")
def toy_sids(toy_data: InteractionData) -> SemanticIds:
    """Two levels: the cluster, and the place in it."""
    item = np.arange(CLUSTERS * PER_CLUSTER)
    codes = np.stack([item // PER_CLUSTER, item % PER_CLUSTER], axis=1)
    return SemanticIds(codes, (CLUSTERS, PER_CLUSTER), toy_data.item_ids, info={"made_by": "hand"})


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens with end, padding and chat tokens; reads any text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    corpus = [f"The item {word} thing, oldest first, comes next: title categories user" for word in WORDS]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>", "<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )


def make_model(
    family: str = "llama", tied: bool = True, vocabulary: int = 320, seed: int = 0, width: int = 32
) -> PreTrainedModel:
    """A random model of two layers."""
    torch.manual_seed(seed)
    config_class, model_class = FAMILIES[family]
    config = config_class(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=width // 4, max_position_embeddings=512,
        tie_word_embeddings=tied, bos_token_id=None, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    return model_class(config).eval()


@pytest.fixture(
    params=[("llama", True), ("llama", False), ("qwen2", True), ("qwen3", False)],
    ids=lambda param: f"{param[0]}-{'tied' if param[1] else 'untied'}",
)
def tiny_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return make_model(*request.param)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub on 127.0.0.1 that this process reads, with an empty cache."""
    with running_hub() as server:
        values = {
            "ENDPOINT": server.url,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_DISABLE_XET": True,
        }
        for name, value in values.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", server.url)
        # Of an earlier test it would keep the address.
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server
