"""The few lines about a prepared data set."""

from genrec_hf.data.summary import summarise


def test_the_summary_says_what_is_in_a_data_set(toy_data):
    lines = summarise(toy_data)
    assert list(lines) == [
        "data set", "users", "items", "interactions", "times", "events per user", "split", "ties", "tie_break",
        "dropped", "dropped users", "first test case",
    ]  # fmt: skip
    assert lines["data set"] == f"toy (fingerprint {toy_data.info['fingerprint']})"
    assert lines["users"] == "60" and lines["interactions"] == "300" and lines["times"].endswith(", no dates")
    assert lines["events per user"] == "min 5, median 5, max 5" and lines["dropped"] == "nothing"
    assert lines["split"] == "leave_one_out: train 180, validation 60, test 60"
    cases, titles = toy_data.cases("test"), list(toy_data.items["title"])
    assert lines["first test case"] == " -> ".join(titles[item] for item in [*cases.histories[0], cases.targets[0]])
