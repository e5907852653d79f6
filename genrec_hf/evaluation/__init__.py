"""Evaluation: metrics with intervals over users, simple baselines, comparisons and reports."""

from genrec_hf.evaluation.baselines import MarkovOne, Popularity, RandomBaseline, RepeatHistory
from genrec_hf.evaluation.bootstrap import bootstrap_interval, bootstrap_intervals, paired_bootstrap
from genrec_hf.evaluation.candidates import choose_candidates, evaluate_candidates
from genrec_hf.evaluation.comparison import compare_lists, compare_scores, write_comparison
from genrec_hf.evaluation.filtering import count_available_items, filtered_targets
from genrec_hf.evaluation.metrics import (
    coverage,
    duplicate_rate,
    intra_list_similarity,
    invalid_rate,
    list_popularity,
    per_case_metrics,
    target_ranks,
)
from genrec_hf.evaluation.overlap import compare_overlap
from genrec_hf.evaluation.ranked_cases import RankedCases, list_length, rank_cases
from genrec_hf.evaluation.report import build_report, evaluate_baselines, evaluate_data, evaluate_recommendations
from genrec_hf.evaluation.report_files import print_report, refuse_other_report, write_report
from genrec_hf.evaluation.search_error import add_search_error, compare_with_exact
from genrec_hf.evaluation.slices import age_slices, popularity_slices

__all__ = [
    "MarkovOne",
    "Popularity",
    "RandomBaseline",
    "RankedCases",
    "RepeatHistory",
    "add_search_error",
    "age_slices",
    "bootstrap_interval",
    "bootstrap_intervals",
    "build_report",
    "choose_candidates",
    "compare_lists",
    "compare_overlap",
    "compare_scores",
    "compare_with_exact",
    "count_available_items",
    "coverage",
    "duplicate_rate",
    "evaluate_baselines",
    "evaluate_candidates",
    "evaluate_data",
    "evaluate_recommendations",
    "filtered_targets",
    "intra_list_similarity",
    "invalid_rate",
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
