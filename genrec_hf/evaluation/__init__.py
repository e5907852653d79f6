"""Evaluation: metrics with intervals over users, baselines to beat, and the report that puts both beside a model."""

from genrec_hf.evaluation.baselines import MarkovOne, Popularity, RandomBaseline, RepeatHistory
from genrec_hf.evaluation.candidates import choose_candidates, evaluate_candidates
from genrec_hf.evaluation.comparison import compare_lists, compare_scores, write_comparison
from genrec_hf.evaluation.filtering import filtered_targets, items_left
from genrec_hf.evaluation.metrics import (
    bootstrap_interval,
    bootstrap_intervals,
    coverage,
    duplicate_rate,
    intra_list_similarity,
    invalid_rate,
    list_popularity,
    paired_bootstrap,
    per_case_metrics,
    target_ranks,
)
from genrec_hf.evaluation.ranked_cases import RankedCases, list_length, rank_cases
from genrec_hf.evaluation.report import (
    build_report,
    evaluate_baselines,
    evaluate_data,
    evaluate_recommendations,
    print_report,
    refuse_other_report,
    write_report,
)
from genrec_hf.evaluation.slices import age_slices, popularity_slices

__all__ = [
    "MarkovOne",
    "Popularity",
    "RandomBaseline",
    "RankedCases",
    "RepeatHistory",
    "age_slices",
    "bootstrap_interval",
    "bootstrap_intervals",
    "build_report",
    "choose_candidates",
    "compare_lists",
    "compare_scores",
    "coverage",
    "duplicate_rate",
    "evaluate_baselines",
    "evaluate_candidates",
    "evaluate_data",
    "evaluate_recommendations",
    "filtered_targets",
    "intra_list_similarity",
    "invalid_rate",
    "items_left",
    "list_length",
    "list_popularity",
    "paired_bootstrap",
    "per_case_metrics",
    "popularity_slices",
    "print_report",
    "rank_cases",
    "refuse_other_report",
    "target_ranks",
    "write_comparison",
    "write_report",
]
