from genrec_hf.markdown import markdown_table


def test_columns_of_figures_are_aligned_right_and_bars_in_cells_are_escaped():
    rows = [["SFT", ".1234 [.1, .2]", "+0.1 [-0.1, 0.3]", 3], ["a|b \\| c", "", None, 4]]
    assert markdown_table(["", "recall@10", "gain", "items"], rows).splitlines() == [
        "|  | recall@10 | gain | items |",
        "| --- | ---: | ---: | ---: |",
        "| SFT | .1234 [.1, .2] | +0.1 [-0.1, 0.3] | 3 |",
        "| a\\|b \\| c |  |  | 4 |",
    ]


def test_a_table_without_rows_is_its_header():
    assert markdown_table(["prompts", "beams"], []) == "| prompts | beams |\n| --- | --- |"
