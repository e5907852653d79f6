"""Benchmark of constrained decoding: `genrec_hf.generation` compared with Hugging Face's `generate`.

    python benchmarks/decoding.py --json decoding.json
    python benchmarks/decoding.py --batch 32 --prompt_length 80 --items 10000 --rounds 3
    python benchmarks/decoding.py --device cuda --dtype bfloat16 --model qwen3-0.6b

The methods take turns, round by round, so that other load on the machine affects all of them; times are medians over
the rounds. The model has the shape of SmolLM2-135M or Qwen3-0.6B with a larger vocabulary and random weights: nothing
is downloaded, and times do not depend on the weights. Peak memory is measured in one process per method, above the
memory of the loaded model.

| row | what runs |
|---|---|
| `hf_prefix` | `generate(num_beams=...)` with a `prefix_allowed_tokens_fn` over a dict of prefixes |
| `hf_processor` | the same with our `SidLogitsProcessor` |
| `prefill_once` | prompts read once, then the cache copied for every beam and reordered, as `generate` does |
| `sid_full`, `sid_level`, `sid_trie` | `generate(custom_generate=sid_beam_search)`, by normalization of the scores |
| `hf_sample` | `generate(do_sample=True, num_return_sequences=...)` with the `prefix_allowed_tokens_fn` |
| `sid_sample` | `generate(custom_generate=sid_sample)` |
| `floor` | one forward pass over the prompts |

`same_items_as_hf` and `max_score_diff` compare with Hugging Face's beams under the same normalization (`hf_prefix` for
`sid_full`, a processor with that normalization for the other two).
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    HfArgumentParser,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from device import device_name, wait
from genrec_hf.directories import write_text
from genrec_hf.generation import RequestFilters, SidLogitsProcessor, SidTrie, sid_beam_search, sid_sample
from genrec_hf.generation.beam_search import BestBeams
from genrec_hf.generation.decoding import decode
from genrec_hf.generation.prompt_cache import CopiedPromptCache, SharedPromptCache
from genrec_hf.markdown import markdown_table
from genrec_hf.resource_usage import track_resources

BEAM_ROWS = ("hf_prefix", "hf_processor", "prefill_once", "sid_full", "sid_level", "sid_trie")
ROWS = (*BEAM_ROWS, "hf_sample", "sid_sample", "floor")
# Number of layers, classes of config and model, and further arguments of the config.
SHAPES: dict[str, tuple[int, type[PreTrainedConfig], type[PreTrainedModel], dict[str, int]]] = {
    "smollm2-135m": (
        30, LlamaConfig, LlamaForCausalLM,
        {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3},
    ),
    "qwen3-0.6b": (
        28, Qwen3Config, Qwen3ForCausalLM,
        {
            "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8,
            "head_dim": 128,
        },
    ),
}  # fmt: skip
NORMALIZATIONS = {"sid_full": "full", "sid_level": "level", "sid_trie": "trie"}


@dataclass
class Setting:
    """Arguments for the model, the catalogue and the prompts."""

    batch: int = field(default=4, metadata={"help": "Number of prompts."})
    prompt_length: int = field(default=200, metadata={"help": "Number of tokens per prompt."})
    num_beams: int = field(default=20, metadata={"help": "Number of beams."})
    samples: int = field(default=16, metadata={"help": "Number of samples per prompt."})
    items: int = field(default=100_000, metadata={"help": "Number of items of the catalogue."})
    levels: int = field(default=4, metadata={"help": "Number of tokens per SID."})
    level_size: int = field(default=256, metadata={"help": "Number of codes per level."})
    vocabulary: int = field(default=152_000, metadata={"help": "Size of the vocabulary."})
    model: str = field(default="smollm2-135m", metadata={"choices": list(SHAPES), "help": "Shape of the model."})
    layers: int | None = field(default=None, metadata={"help": "Number of layers; by default those of the model."})
    attention: str = field(default="sdpa", metadata={"help": "Attention implementation: sdpa or eager."})
    dtype: str = field(default="float32", metadata={"help": "Dtype of the weights: float32, bfloat16 or float16."})
    device: str = field(default="cpu", metadata={"help": "Device: cpu or cuda."})

    def __post_init__(self) -> None:
        self.layers = SHAPES[self.model][0] if self.layers is None else self.layers


@dataclass
class Options:
    """Arguments for the measurement."""

    rounds: int = field(default=5, metadata={"help": "Number of rounds, in which every method runs."})
    memory: bool = field(default=True, metadata={"help": "Measure the peak memory of every method."})
    catalogues: bool = field(default=True, metadata={"help": "Also measure tries and filters of up to 10M items."})
    static: bool = field(default=False, metadata={"help": "Compile the decoding steps of the sid_* methods."})
    json: str | None = field(default=None, metadata={"help": "JSON file to write the results to; none by default."})
    quiet: bool = field(default=False, metadata={"help": "Do not show progress bars."})
    peak_of: str | None = field(default=None, metadata={"help": "Only print the peak memory of this method, in MB."})


class Codes:
    """Token ids of the codes, at the end of the vocabulary; replaces a `SidVocabulary`."""

    def __init__(self, setting: Setting) -> None:
        first = setting.vocabulary - setting.levels * setting.level_size
        size = setting.level_size
        self.level_token_ids = [first + level * size + np.arange(size) for level in range(setting.levels)]


class World:
    """Model, prompts and catalogue, and the methods of decoding."""

    def __init__(self, setting: Setting, static: bool = False) -> None:
        torch.manual_seed(0)
        self.setting = setting
        _, config_class, model_class, shape = SHAPES[setting.model]
        config = config_class(
            vocab_size=setting.vocabulary, num_hidden_layers=setting.layers, max_position_embeddings=8192,
            tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=0,
            attn_implementation=setting.attention, **shape,
        )  # fmt: skip
        with torch.device(setting.device):  # initialized there, which is faster
            self.model: Any = model_class(config).eval().to(getattr(torch, setting.dtype))
        self.model.generation_config = GenerationConfig(max_new_tokens=setting.levels, pad_token_id=0)
        self.vocabulary: Any = Codes(setting)
        self.codes = random_codes(setting.items, setting)
        self.trie = SidTrie(self.codes, self.vocabulary).to(setting.device)
        ordinary = setting.vocabulary - setting.levels * setting.level_size
        prompts = torch.randint(1, ordinary, (setting.batch, setting.prompt_length), device=setting.device)
        self.inputs = {"input_ids": prompts, "attention_mask": torch.ones_like(prompts)}
        self.static = {"static": True} if static else {}

    def rows(self) -> dict[str, Callable[[], Any]]:
        """Return the methods by name."""
        beams = {"num_beams": self.setting.num_beams, "num_return_sequences": self.setting.num_beams}
        allowed = {"prefix_allowed_tokens_fn": self.prefix_function()}
        samples = {"do_sample": True, "top_k": 0, "num_return_sequences": self.setting.samples}
        return {
            "hf_prefix": lambda: self.generate(**beams, **allowed),
            "hf_processor": lambda: self.by_processor("full"),
            "prefill_once": lambda: self.walk(CopiedPromptCache(self.model)),
            **{
                name: lambda normalization=normalization: self.by_trie(normalization)
                for name, normalization in NORMALIZATIONS.items()
            },
            "hf_sample": lambda: self.generate(**samples, **allowed),
            "sid_sample": lambda: self.generate(
                custom_generate=sid_sample, trie=self.trie, num_return_sequences=self.setting.samples, **self.static
            ),
            "floor": self.read_prompts,
        }

    def generate(self, **kwargs: Any) -> Any:
        return self.model.generate(**self.inputs, return_dict_in_generate=True, output_scores=True, **kwargs)

    def by_trie(self, normalization: str, trie: SidTrie | None = None) -> Any:
        trie = self.trie if trie is None else trie
        num_beams = self.setting.num_beams
        return self.generate(
            custom_generate=sid_beam_search, trie=trie, num_beams=num_beams, normalization=normalization, **self.static
        )

    def by_processor(self, normalization: str) -> Any:
        processor = SidLogitsProcessor(self.trie, self.vocabulary, normalization=normalization)  # type: ignore[arg-type]
        num_beams = self.setting.num_beams
        return self.generate(num_beams=num_beams, num_return_sequences=num_beams, logits_processor=[processor])

    def walk(self, prefix: Any, normalization: Any = "full") -> Any:
        return decode(
            prefix,
            {"input_ids": self.inputs["input_ids"]},
            self.inputs["attention_mask"],
            trie=self.trie,
            select=BestBeams(self.setting.num_beams),
            normalization=normalization,
        )

    @torch.no_grad()
    def read_prompts(self) -> None:
        self.model(**self.inputs, logits_to_keep=1)

    def prefix_function(self) -> Callable[[int, torch.Tensor], list[int]]:
        """Make the usual function: a dict from the tokens so far to the tokens that may follow."""
        following: dict[tuple[int, ...], list[int]] = {}
        tokens = np.stack([ids[self.codes[:, i]] for i, ids in enumerate(self.vocabulary.level_token_ids)], axis=1)
        for level in range(self.setting.levels):
            for *prefix, token in np.unique(tokens[:, : level + 1], axis=0).tolist():
                following.setdefault(tuple(prefix), []).append(token)
        return lambda _, ids: following[tuple(ids[self.setting.prompt_length :].tolist())]

    def wait(self) -> None:
        wait(self.setting.device)


def random_codes(items: int, setting: Setting) -> np.ndarray:
    """Make distinct random SIDs, `[items, levels]`."""
    rng, size = np.random.default_rng(0), setting.level_size
    if items > 0.9 * float(size) ** setting.levels:
        raise ValueError(f"got items={items}, too many for {setting.levels} levels of {size} codes: give more codes")
    numbers = np.zeros(0, dtype=np.int64)
    while len(numbers) < items:
        numbers = np.unique(np.append(numbers, rng.integers(0, size**setting.levels, items)))
    numbers = rng.permutation(numbers)[:items]
    return np.stack([numbers // size**level % size for level in reversed(range(setting.levels))], axis=1)


def timed(world: World, run: Callable[[], Any]) -> float:
    world.wait()
    start = perf_counter()
    run()
    world.wait()
    return perf_counter() - start


def interleaved(world: World, rows: dict[str, Callable[[], Any]], rounds: int, quiet: bool) -> dict[str, float]:
    """Measure the median seconds of each method; fast methods, which are noisier, run three times per round."""
    for name, run in rows.items():
        if not name.startswith("hf"):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in tqdm(range(rounds), desc="Rounds", disable=quiet):
        for repeat in range(3):
            for name, run in rows.items():
                if repeat == 0 or not name.startswith("hf"):
                    seconds[name].append(timed(world, run))
    return {name: median(values) for name, values in seconds.items()}


def compare(world: World, rows: dict[str, Callable[[], Any]]) -> dict[str, tuple[bool, float]]:
    """Compare beams with Hugging Face's: whether tokens and order are equal, and the largest difference of scores."""
    reference = {"full": rows["hf_prefix"](), "level": world.by_processor("level"), "trie": world.by_processor("trie")}
    result = {}
    for name in ("hf_processor", "sid_full", "sid_level", "sid_trie"):
        expected, result_of = reference[NORMALIZATIONS.get(name, "full")], rows[name]()
        difference = float((expected.sequences_scores - result_of.sequences_scores).abs().max())
        result[name] = (bool(torch.equal(expected.sequences, result_of.sequences)), difference)
    decoded = world.walk(CopiedPromptCache(world.model))
    tokens = reference["full"].sequences[:, -world.setting.levels :].view_as(decoded.tokens)
    scores = reference["full"].sequences_scores.view_as(decoded.log_probs) * world.setting.levels
    difference = float((scores - decoded.log_probs).abs().max()) / world.setting.levels
    return result | {"prefill_once": (bool(torch.equal(tokens, decoded.tokens)), difference)}


class Stopwatch:
    """Prompt cache that measures the time of the model."""

    def __init__(self, world: World) -> None:
        self.world, self.prefix, self.seconds = world, SharedPromptCache(world.model), 0.0

    def __getattr__(self, name: str) -> Callable[..., torch.Tensor]:
        return lambda *arguments: self.timed_call(getattr(self.prefix, name), arguments)

    def timed_call(self, call: Callable[..., torch.Tensor], arguments: Any) -> torch.Tensor:
        self.world.wait()
        start = perf_counter()
        result = call(*arguments)
        self.world.wait()
        self.seconds += perf_counter() - start
        return result


def selection_shares(world: World, rounds: int) -> dict[str, float]:
    """Measure the share of the time outside the model and its head, for trie, scores and selection; by method."""
    shares: dict[str, list[float]] = {name: [] for name in NORMALIZATIONS}
    for _ in range(rounds + 1):
        for name, normalization in NORMALIZATIONS.items():
            stopwatch = Stopwatch(world)
            total = timed(world, lambda cache=stopwatch, normalization=normalization: world.walk(cache, normalization))
            shares[name].append(1 - stopwatch.seconds / total)
    return {name: median(values[1:]) for name, values in shares.items()}


def measure_catalogues(world: World, rounds: int, quiet: bool) -> list[dict[str, Any]]:
    """Measure tries of several sizes: time and bytes to build, search time, and the cost of filters per level."""
    rows, searches = [], {}
    for items in (10_000, 1_000_000, 10_000_000):
        if items > 0.9 * float(world.setting.level_size) ** world.setting.levels:
            continue
        codes = random_codes(items, world.setting)
        build = median(timed(world, lambda codes=codes: SidTrie(codes)) for _ in range(3))
        trie = SidTrie(codes, world.vocabulary).to(world.setting.device)
        rows.append({"items": items, "trie_build_s": build, "trie_mb": trie.nbytes / 1e6})
        rows[-1]["deny_ms_per_level"] = deny_milliseconds(trie, world)
        searches[str(items)] = lambda trie=trie: world.by_trie("level", trie)
    seconds = interleaved(world, searches, rounds, quiet)
    for row in rows:
        row["sid_level_s"] = seconds[str(row["items"])]
        row["ratio_to_10k"] = row["sid_level_s"] / seconds["10000"]
    return rows


def deny_milliseconds(
    trie: SidTrie, world: World, requests: int = 32, denied: int = 100, num_beams: int = 20
) -> float:
    """Measure filters that deny 100 items in 32 requests each: milliseconds of the slowest level, with 20 beams."""
    rng = np.random.default_rng(0)
    filters = RequestFilters(trie, deny=[rng.choice(len(trie), denied, replace=False) for _ in range(requests)])
    slowest = 0.0
    for level in range(trie.levels):
        nodes = torch.randint(trie.nodes(level), (requests, num_beams if level else 1), device=trie.device)
        children, _, _ = trie.children(level, nodes, trie.max_children[level])
        run = lambda level=level, children=children: filters.allowed(level, children)  # noqa: E731
        slowest = max(slowest, median(timed(world, run) for _ in range(9)))
    return 1000 * slowest


def peak_megabytes(world: World, run: Callable[[], Any]) -> float | None:
    """Measure the peak memory of a run above that before it, in MB; `None` where the system does not report it."""
    if world.setting.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    world.model(input_ids=torch.ones(1, 1, dtype=torch.long))  # allocates what the first pass keeps
    with track_resources() as cost:
        run()
    return cost.peak_mb


def peaks_in_own_processes(setting: Setting, static: bool, quiet: bool) -> dict[str, float | None]:
    """Measure the peak memory of each method in its own process, since a process keeps freed memory."""
    command = [sys.executable, __file__, "--static", str(static)]
    command += [text for name, value in asdict(setting).items() for text in (f"--{name}", str(value))]
    peaks = {}
    for row in tqdm(ROWS, desc="Memory", disable=quiet):
        output = subprocess.run([*command, "--peak_of", row], check=True, capture_output=True, text=True)
        peaks[row] = json.loads(output.stdout.splitlines()[-1])
    return peaks


def markdown(report: dict[str, Any]) -> str:
    """Format the report as tables."""

    def show(row: dict[str, Any], forms: dict[str, str]) -> list[str | None]:
        return [None if row[key] is None else format(row[key], form) for key, form in forms.items()]

    same = {None: "", True: "same", False: "differs"}
    time_forms = {"median_s": ".3f", "speedup_vs_hf": ".1f", "ratio_to_floor": ".2f"}
    other_forms = {"max_score_diff": ".1e", "selection_share": ".1%", "peak_mb": ".0f"}
    text = markdown_table(
        ["row", "median s", "vs HF", "vs floor", "as HF", "score diff", "selection", "peak MB"],
        [
            [f"`{row['name']}`", *show(row, time_forms), same[row["same_items_as_hf"]], *show(row, other_forms)]
            for row in report["rows"]
        ],
    )
    if report["catalogues"]:
        forms = {"items": ",", "trie_build_s": ".2f", "trie_mb": ".1f", "deny_ms_per_level": ".1f"}
        forms |= {"ratio_to_10k": ".2f"}
        header = ["items", "trie built, s", "trie, MB", "deny, ms per level", "`sid_level`, vs 10k items"]
        text += "\n\n" + markdown_table(header, [show(row, forms) for row in report["catalogues"]])
    return text


def main(setting: Setting, options: Options) -> None:
    """Run the benchmark, print a table and write the report."""
    world = World(setting, options.static)
    rows = world.rows()
    if options.peak_of is not None:
        print(json.dumps(peak_megabytes(world, rows[options.peak_of])))
        return
    comparison = compare(world, rows)
    seconds = interleaved(world, rows, options.rounds, options.quiet)
    shares = {} if options.static else selection_shares(world, options.rounds)
    peaks = peaks_in_own_processes(setting, options.static, options.quiet) if options.memory else {}
    table = []
    for name in ROWS:
        reference = seconds["hf_sample" if name.endswith("sample") else "hf_prefix"]
        same, difference = comparison.get(name, (None, None))
        table.append({
            "name": name, "median_s": seconds[name], "speedup_vs_hf": reference / seconds[name],
            "ratio_to_floor": seconds[name] / seconds["floor"], "same_items_as_hf": same,
            "max_score_diff": difference, "selection_share": shares.get(name), "peak_mb": peaks.get(name),
        })  # fmt: skip
    versions = {"torch": torch.__version__, "rounds": options.rounds, "static": options.static}
    report = {
        "setting": asdict(setting) | {"device_name": device_name(setting.device)} | versions,
        "rows": table,
        "catalogues": measure_catalogues(world, options.rounds, options.quiet) if options.catalogues else [],
    }
    print(markdown(report))
    if options.json is not None:
        write_text(options.json, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main(*HfArgumentParser((Setting, Options)).parse_args_into_dataclasses())
