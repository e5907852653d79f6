"""Benchmark of residual k-means on a large catalogue: time to fit and to encode, and peak memory.

    python benchmarks/rq_kmeans.py --items 1000000 --embedding_size 384 --json rq_kmeans.json
    python benchmarks/rq_kmeans.py --items 1000000 --balanced true

Embeddings are synthetic: 2,000 groups of uneven size on the unit sphere. `embeddings_gb` is their size, `peak_gb` the
peak memory of fitting and encoding in addition to them (Linux only). `error` is the share of the variance of 20,000
items that their codes do not explain; `processor_s` is the CPU time of fitting and encoding over all cores.
"""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from time import process_time

import numpy as np
from transformers import HfArgumentParser

from genrec_hf.directories import write_text
from genrec_hf.resource_usage import track_resources
from genrec_hf.semantic_ids import RqKmeans
from genrec_hf.semantic_ids.report import unexplained_variance


@dataclass
class Setting:
    """Arguments of the benchmark."""

    items: int = field(default=1_000_000, metadata={"help": "Number of items."})
    embedding_size: int = field(default=384, metadata={"help": "Size of an embedding."})
    level_sizes: list[int] = field(
        default_factory=lambda: [256, 256, 256], metadata={"help": "Number of codes of each level."}
    )
    restarts: int = field(default=4, metadata={"help": "Number of k-means runs per level."})
    balanced: bool = field(default=False, metadata={"help": "Make clusters of nearly equal size."})
    points_per_code: int = field(default=256, metadata={"help": "Number of training items per code."})
    json: str | None = field(default=None, metadata={"help": "JSON file to write the results to; none by default."})
    quiet: bool = field(default=False, metadata={"help": "Do not show progress bars."})


def clustered(items: int, size: int, groups: int = 2000, chunk: int = 50_000) -> np.ndarray:
    """Make embeddings `[items, size]`, float32, of unit length, in groups of uneven size."""
    rng = np.random.default_rng(0)
    centres, shares = rng.standard_normal((groups, size), dtype=np.float32), rng.dirichlet(np.full(groups, 0.5))
    embeddings = np.empty((items, size), dtype=np.float32)
    for start in range(0, items, chunk):
        part = embeddings[start : start + chunk]
        part[:] = centres[rng.choice(groups, len(part), p=shares)]
        part += np.float32(0.7) * rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return embeddings


def main(setting: Setting) -> None:
    """Fit, encode, print and write the report."""
    embeddings = clustered(setting.items, setting.embedding_size)
    settings = {name: getattr(setting, name) for name in ("restarts", "balanced", "points_per_code")}
    quantizer = RqKmeans(setting.level_sizes, **settings)
    processors = process_time()
    with track_resources() as fitting:
        quantizer.fit(embeddings, progress=not setting.quiet)
    with track_resources() as encoding:
        codes = quantizer.encode(embeddings)
    processors = process_time() - processors
    peaks = [cost.peak_mb for cost in (fitting, encoding) if cost.peak_mb is not None]
    counts = [np.bincount(codes[:, level], minlength=size) for level, size in enumerate(setting.level_sizes)]
    report = {
        "setting": asdict(setting),
        "machine": f"{os.cpu_count()} CPUs, {platform.processor() or platform.machine()}",
        "fit_s": fitting.seconds,
        "encode_s": encoding.seconds,
        "processor_s": processors,
        "embeddings_gb": embeddings.nbytes / 1e9,
        "peak_gb": max(peaks) / 1e3 if peaks else None,
        "error": unexplained_variance(embeddings[:20_000], quantizer.reconstruct(codes[:20_000])),
        "levels": [{"smallest": int(each.min()), "largest": int(each.max())} for each in counts],
    }
    print(json.dumps(report, indent=2))
    if setting.json:
        write_text(setting.json, json.dumps(report, indent=2))


if __name__ == "__main__":
    main(*HfArgumentParser(Setting).parse_args_into_dataclasses())
