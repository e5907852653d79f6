"""`SidProbe`: compares semantic ids by training a small decoder from scratch on their codes alone."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from genrec_hf.data.dataset import EvaluationCases
from genrec_hf.digests import hex_digest
from genrec_hf.directories import replace_file
from genrec_hf.evaluation import filtered_targets, per_case_metrics
from genrec_hf.generation import SidTrie, sid_beam_search
from genrec_hf.semantic_ids import SemanticIds

PADDING, START = 0, 1
METRICS = ("recall@10", "ndcg@10")


@dataclass
class SidProbe:
    """A small decoder and its training, the same for all semantic ids that are compared.

    A Llama of two layers whose vocabulary is the codes. It is trained on the users' sequences of SIDs, with a loss on
    every token and without text, and recommends by beam search over the catalogue. Training takes minutes on a CPU. It
    measures the codes, and not how well an LLM can learn them.

    Args:
        hidden_size (`int`, defaults to 128): size of the hidden states.
        layers (`int`, defaults to 2): number of decoder layers.
        epochs (`int`, defaults to 4): passes over the sequences, cut into windows at other positions in each.
        batch_size (`int`, defaults to 16): sequences per step.
        learning_rate (`float`, defaults to 3e-3): peak; linear warmup, cosine decay.
        window (`int`, defaults to 40): largest number of items of a training sequence and of a history.
        num_beams (`int`, defaults to 30): beams of the search.
    """

    hidden_size: int = 128
    layers: int = 2
    epochs: int = 4
    batch_size: int = 16
    learning_rate: float = 3.0e-3
    window: int = 40
    num_beams: int = 30

    def train(
        self, semantic_ids: SemanticIds, sequences: Sequence[np.ndarray], seed: int, *, progress: bool = True
    ) -> LlamaForCausalLM:
        """Train a model.

        Args:
            semantic_ids (`SemanticIds`): the codes.
            sequences (`Sequence[np.ndarray]`): training sequences of item rows, oldest first.
            seed (`int`): of weights, windows and batches; the global seeds of Python, NumPy and torch are set to it.
            progress (`bool`, defaults to `True`): show a progress bar.

        Returns:
            `LlamaForCausalLM`: in evaluation mode.

        Raises:
            ValueError: no sequence has two items.
        """
        set_seed(seed)
        settings: dict[str, Any] = {"attn_implementation": "eager"}  # SDPA's backward with a mask is slow on the CPU
        config = LlamaConfig(
            vocab_size=2 + sum(semantic_ids.level_sizes),
            hidden_size=self.hidden_size,
            intermediate_size=4 * self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=4,
            max_position_embeddings=1 + self.window * semantic_ids.levels,
            attention_dropout=0.1,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=PADDING,
            **settings,
        )
        model = LlamaForCausalLM(config)
        model.generation_config = GenerationConfig(pad_token_id=PADDING, max_new_tokens=semantic_ids.levels)
        windows = _Windows(_token_ids(semantic_ids), sequences, self.window, epochs=self.epochs, seed=seed)
        with tempfile.TemporaryDirectory() as directory:
            arguments = TrainingArguments(
                directory,
                num_train_epochs=1,
                per_device_train_batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                warmup_steps=50,
                lr_scheduler_type="cosine",
                weight_decay=0.1,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=not progress,
                seed=seed,
                dataloader_pin_memory=False,
            )
            trainer = Trainer(model, arguments, train_dataset=windows, data_collator=_collate)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return model.eval()

    def recommend(
        self, model: Any, semantic_ids: SemanticIds, cases: EvaluationCases, *, k: int, progress: bool = True
    ) -> np.ndarray:
        """Recommend items to each case, without those of its history.

        Args:
            model (`LlamaForCausalLM`): from `train` with the same semantic ids.
            semantic_ids (`SemanticIds`): the codes.
            cases (`EvaluationCases`): with the histories.
            k (`int`): length of a list, at most `num_beams`.
            progress (`bool`, defaults to `True`): show a progress bar.

        Returns:
            `np.ndarray`: `[cases, k]`, item rows, best first, `-1` for an empty rank.
        """
        tokens = _token_ids(semantic_ids)
        trie = _make_trie(semantic_ids).to(model.device)
        order = np.argsort([len(history) for history in cases.histories], kind="stable")
        lists = np.full((len(cases), k), -1)
        for start in tqdm(range(0, len(order), 64), desc="Probe", disable=not progress):
            rows = order[start : start + 64]
            histories = [cases.histories[row] for row in rows]
            inputs = _pad_left([_encode_items(tokens, history[-self.window :]) for history in histories])
            output = model.generate(
                **{name: value.to(model.device) for name, value in inputs.items()},
                custom_generate=sid_beam_search,
                trie=trie,
                num_beams=self.num_beams,
                num_return_sequences=k,
                normalization="level",
                deny=histories,
                return_dict_in_generate=True,
            )
            lists[rows] = trie.items(output.leaves).view(len(rows), k).cpu().numpy()
        return lists


def probe_semantic_ids(
    probe: SidProbe,
    semantic_ids: SemanticIds,
    sequences: Sequence[np.ndarray],
    *,
    cases: EvaluationCases,
    seeds: Sequence[int],
    directory: str | Path,
    progress: bool = True,
) -> list[dict[str, np.ndarray]]:
    """Train and evaluate the probe once per seed; recommendations of earlier runs are read from `directory`.

    Training sets the global seeds of Python, NumPy and torch.

    Args:
        probe (`SidProbe`): the model and its training.
        semantic_ids (`SemanticIds`): the codes.
        sequences (`Sequence[np.ndarray]`): training sequences of item rows, oldest first.
        cases (`EvaluationCases`): evaluation cases.
        seeds (`Sequence[int]`): of weights, windows and batches.
        directory (`str` or `Path`): holds the recommendations, one file per run.
        progress (`bool`, defaults to `True`): show progress bars.

    Returns:
        `list[dict[str, np.ndarray]]`: for each seed `recall@10` and `ndcg@10`, `[cases]` each, for `compare_scores`.

    Raises:
        ValueError: no sequence has two items, or no target can be recommended because it is in its history.
    """
    filtered_targets(cases.histories, cases.targets)
    scores = []
    for seed in seeds:
        file = Path(directory) / f"{_key(probe, semantic_ids, sequences, cases, seed)}.safetensors"
        if not file.is_file():
            model = probe.train(semantic_ids, sequences, seed, progress=progress)
            lists = probe.recommend(model, semantic_ids, cases, k=10, progress=progress)
            with replace_file(file) as partial:
                save_file({"recommended": lists}, partial)
        figures = per_case_metrics(load_file(file)["recommended"], cases.targets, ks=(10,))
        scores.append({metric: figures[metric] for metric in METRICS})
    return scores


def _key(
    probe: SidProbe, semantic_ids: SemanticIds, sequences: Sequence[np.ndarray], cases: EvaluationCases, seed: int
) -> str:
    """Compute sixteen hex digits that change with everything that a run depends on."""
    arrays = (np.asarray(rows, dtype="<i8") for rows in (*sequences, *cases.histories, cases.targets))
    settings = repr((probe, semantic_ids.fingerprint, seed))
    return hex_digest([settings, *(part for array in arrays for part in (array, b"|"))])


class _Windows(Dataset):
    """Data set of windows of the users' sequences, cut at other positions in each epoch."""

    def __init__(
        self, tokens: np.ndarray, sequences: Sequence[np.ndarray], window: int, *, epochs: int, seed: int
    ) -> None:
        self.tokens, self.windows = tokens, []
        rng = np.random.default_rng(seed)
        for _ in range(epochs):
            for sequence in sequences:
                first = len(sequence) % window if len(sequence) <= window else int(rng.integers(1, window + 1))
                cuts = [cut for cut in range(first, len(sequence), window) if cut > 0]
                self.windows += [part for part in np.split(sequence, cuts) if len(part) > 1]
        if not self.windows:
            raise ValueError(
                f"got {len(sequences)} training sequences, none with two items: there is no next item to learn; check "
                "the data set"
            )

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return _encode_items(self.tokens, self.windows[index])


def _token_ids(semantic_ids: SemanticIds) -> np.ndarray:
    """Return the token ids of all items, `[items, levels]`: each level has its own range."""
    starts = np.cumsum([2, *semantic_ids.level_sizes[:-1]])
    return semantic_ids.codes + starts


def _make_trie(semantic_ids: SemanticIds) -> SidTrie:
    starts = np.cumsum([2, *semantic_ids.level_sizes[:-1]])
    ids = [start + np.arange(size) for start, size in zip(starts, semantic_ids.level_sizes, strict=True)]
    return SidTrie(semantic_ids, ids)


def _encode_items(tokens: np.ndarray, items: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([[START], tokens[items].ravel()]))


def _pad_left(sequences: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    ids = pad_sequence(sequences, batch_first=True, padding_value=PADDING, padding_side="left")
    return {"input_ids": ids, "attention_mask": (ids != PADDING).long()}


def _collate(sequences: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    batch = _pad_left(sequences)
    # The start token has no label: only padding comes before it.
    return batch | {"labels": batch["input_ids"].masked_fill(batch["input_ids"] <= START, -100)}
