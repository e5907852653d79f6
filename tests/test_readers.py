"""Every source ends in the same two tables: ids as text, whole times, text fields without gaps."""

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrec_hf.data import RawData, read_source


def write(file: Path, text: str, encoding: str = "utf-8") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress(text.encode(encoding)))
    else:
        file.write_text(text, encoding=encoding)
    return file


def assert_movies(raw: RawData) -> None:
    assert raw.interactions.to_dict("list") == {
        "user_id": ["1", "1", "2"],
        "item_id": ["10", "07", "10"],
        "timestamp": [978300760, 978302109, 978301968],
        "rating": [5.0, 3.0, 4.0],
    }
    assert raw.items.to_dict("list") == {
        "item_id": ["07", "10"],
        "title": ["Les Misérables: Part 1 (1995)", "Heat (1995)"],
        "categories": ["Drama, Musical", ""],
    }
    assert raw.interactions["timestamp"].dtype == "int64"


EVENTS = [("1", "10", "5", "978300760"), ("1", "07", "3", "978302109"), ("2", "10", "4", "978301968")]


def test_movielens_dat(tmp_path):
    write(tmp_path / "ratings.dat", "".join("::".join(event) + "\n" for event in EVENTS))
    movies = "07::Les Misérables: Part 1 (1995)::Drama|Musical\n10::Heat (1995)::(no genres listed)\n"
    write(tmp_path / "movies.dat", movies, "latin-1")
    assert_movies(read_source(tmp_path))


def test_movielens_csv(tmp_path):
    header = "userId,movieId,rating,timestamp\n"
    write(tmp_path / "ratings.csv", header + "".join(",".join(event) + "\n" for event in EVENTS))
    movies = "07,Les Misérables: Part 1 (1995),Drama|Musical\n10,Heat (1995),(no genres listed)\n"
    write(tmp_path / "movies.csv", "movieId,title,genres\n" + movies)
    assert_movies(read_source(tmp_path))


def test_movielens_100k_raw(tmp_path):
    write(tmp_path / "u.data", "".join("\t".join(event) + "\n" for event in EVENTS))
    flags = ["|".join("1" if flag in chosen else "0" for flag in range(19)) for chosen in ({8, 12}, {0})]
    movies = f"07|Les Misérables: Part 1 (1995)|01-Jan-1995|||{flags[0]}\n10|Heat (1995)|01-Jan-1995|||{flags[1]}\n"
    write(tmp_path / "u.item", movies, "latin-1")
    assert_movies(read_source(tmp_path))


def test_movielens_without_movies_says_which_file(tmp_path):
    write(tmp_path / "ratings.dat", "1::10::5::978300760\n")
    with pytest.raises(FileNotFoundError, match=r"without movies\.dat"):
        read_source(tmp_path)


def test_recbole_atomic_files(tmp_path):
    write(
        tmp_path / "toy.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\t07\t4\t1.425941529E9\nu\tNA\t\t1425941530.0\n",
    )
    write(
        tmp_path / "toy.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "07\tSay \"Hi\t1995\tAnimation Children's\nNA\t\t\t\n",
    )
    raw = read_source(tmp_path)
    assert (raw.name, raw.source) == ("toy", "toy.inter")
    assert raw.interactions["timestamp"].tolist() == [1425941529, 1425941530]
    assert raw.interactions["item_id"].tolist() == ["07", "NA"]
    assert raw.items.to_dict("list") == {
        "item_id": ["07", "NA"],
        "title": ['Say "Hi', ""],
        "year": ["1995", ""],
        "categories": ["Animation, Children's", ""],
    }


def test_recbole_categories_with_commas_keep_their_spaces(tmp_path):
    write(tmp_path / "toy.inter", "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\n")
    write(tmp_path / "toy.item", "item_id:token\tcategories:token_seq\na\tHair Care, Eau de Parfum\nb\tHair Care\n")
    assert read_source(tmp_path).items["categories"].tolist() == ["Hair Care, Eau de Parfum", "Hair Care"]


def test_recbole_without_items_or_with_several_files(tmp_path):
    write(tmp_path / "toy.inter", "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\n")
    assert read_source(tmp_path).items.columns.tolist() == ["item_id"]
    write(tmp_path / "toy.test.inter", "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\n")
    with pytest.raises(ValueError, match=r"keep one \.inter file"):
        read_source(tmp_path)


REVIEW_2014 = {"reviewerID": "A1", "asin": "0001", "overall": 5.0, "unixReviewTime": 1390694400, "reviewText": "x"}
REVIEW_2023 = {"user_id": "A1", "parent_asin": "0001", "asin": "X", "rating": 5.0, "timestamp": 1588687728923}
# What each generation of metadata looks like; 2014 is printed Python, not JSON.
METADATA = {
    "2014": (
        REVIEW_2014,
        "{'asin': '0001', 'title': 'Lip &amp; Care', 'categories': [['Beauty', 'Lips'], ['Beauty', 'Care']]}\n"
        "{'asin': '0001', 'title': 'again'}\n",
        {"title": "Lip & Care", "categories": "Beauty, Lips, Care", "brand": "", "description": ""},
    ),
    "2018": (
        REVIEW_2014,
        json.dumps({"asin": "0001", "category": ["Beauty", "Lips"], "brand": "B", "description": ["<b>A</b>", "Z"]})
        + '\n{"asin": "0001"}\n',
        {"title": "", "categories": "Beauty, Lips", "brand": "B", "description": "A Z"},
    ),
    "2023": (
        REVIEW_2023,
        json.dumps(
            {
                "parent_asin": "0001",
                "title": "T\ud83d",
                "store": "S",
                "categories": ["Beauty"],
                "description": [],
                "features": ["Lasts <i>long</i> &amp;amp; well", "<10 cm", None],
            }
        )
        + '\n{"parent_asin": "0001"}\n',
        {"title": "T", "categories": "Beauty", "brand": "S", "description": "Lasts long & well <10 cm"},
    ),
}


@pytest.mark.parametrize("suffix", [".json", ".jsonl.gz"])
@pytest.mark.parametrize("generation", METADATA)
def test_amazon(tmp_path, generation, suffix):
    review, metadata, texts = METADATA[generation]
    reviews = write(tmp_path / f"reviews{suffix}", json.dumps(review) + "\n\n")
    items = write(tmp_path / f"meta{suffix}", metadata)
    for raw in (read_source(tmp_path), read_source(reviews, metadata=items)):
        time = 1588687728923 if generation == "2023" else 1390694400
        assert raw.interactions.iloc[0].tolist() == ["A1", "0001", time, 5.0]
        assert raw.items.to_dict("records") == [{"item_id": "0001", **texts}]
        assert raw.dropped == {"repeated metadata rows": 1}


@pytest.mark.parametrize("generation", METADATA)
def test_what_users_wrote_is_kept_when_asked_for(tmp_path, generation):
    review, metadata, _ = METADATA[generation]
    names = ("text", "title") if generation == "2023" else ("reviewText", "summary")
    told = [{**review, names[0]: "Soft &amp; warm\n", names[1]: "Good"}, {**review, names[0]: None}]
    write(tmp_path / "reviews.json", "\n".join(map(json.dumps, told)))
    write(tmp_path / "meta.json", metadata)
    assert "review" not in read_source(tmp_path).interactions
    kept = read_source(tmp_path, reviews=True).interactions
    assert kept["review"].tolist() == ["Soft & warm", ""] and kept["headline"].tolist() == ["Good", ""]
    assert kept["rating"].tolist() == [5.0, 5.0]


def test_what_users_wrote_in_a_table(tmp_path):
    file = write(tmp_path / "table.csv", "user_id,item_id,timestamp,words,headline\nu,a,1,Fine by me,Fine\n")
    columns = {"user_id": "user_id", "review": "words"}
    kept = read_source(file, columns=columns, reviews=True).interactions
    assert kept[["review", "headline"]].to_numpy().tolist() == [["Fine by me", "Fine"]]
    assert "headline" not in read_source(file, columns={"user_id": "user_id"}).interactions
    with pytest.raises(ValueError, match="review texts, which are not read by default: pass reviews=True"):
        read_source(file, columns=columns)


def test_amazon_metadata_is_never_run(tmp_path):
    reviews = write(tmp_path / "reviews.json", json.dumps(REVIEW_2014) + "\n")
    items = write(tmp_path / "meta.json", "{'asin': '1'}\n{'asin': __import__('os').getcwd()}\n")
    with pytest.raises(ValueError, match=r"line 2 of meta\.json"):
        read_source(reviews, metadata=items)


def test_amazon_reviews_alone_and_unclear_folders(tmp_path):
    reviews = write(tmp_path / "reviews.json", json.dumps(REVIEW_2014) + "\n")
    assert read_source(reviews).items.empty
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        read_source(reviews, metadata=tmp_path / "nothing.json")
    with pytest.raises(ValueError, match=r"other\.json has no 'asin'"):
        read_source(reviews, metadata=write(tmp_path / "other.json", '{"id": 1}\n'))
    write(tmp_path / "more.json", json.dumps(REVIEW_2014) + "\n")
    with pytest.raises(ValueError, match="give one review file"):
        read_source(tmp_path)


TABLE = pd.DataFrame(
    {
        "who": ["u", "u", None],
        "what": [1.0, 2.0, 1.0],
        "when": pd.to_datetime(["2020-01-01T00:00:00.5", "2020-01-02", "2020-01-03"], format="ISO8601"),
        "name": ["One", None, "One"],
    }
)
COLUMNS = {"user_id": "who", "item_id": "what", "timestamp": "when", "title": "name"}


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def test_table_of_a_folder_through_datasets(tmp_path, no_hub):
    (tmp_path / "table").mkdir()
    TABLE.to_parquet(tmp_path / "table" / "part.parquet")
    raw = read_source(tmp_path / "table", columns=COLUMNS)
    assert raw.interactions.to_dict("list") == {
        "user_id": ["u", "u"],
        "item_id": ["1", "2"],
        "timestamp": [1577836800500, 1577923200000],
    }
    assert raw.items.to_dict("list") == {"item_id": ["1", "2"], "title": ["One", ""]}
    assert raw.dropped == {"no user, item or time": 1}


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".json", ".jsonl", ".jsonl.gz"])
def test_table_of_a_file_keeps_ids(tmp_path, suffix):
    table = pd.DataFrame({"user_id": ["007", "NA"], "item_id": ["00", "0"], "timestamp": [3, 4]})
    file = tmp_path / f"events{suffix}"
    if suffix == ".parquet":
        table.to_parquet(file)
    elif suffix in (".csv", ".tsv"):
        table.to_csv(file, index=False, sep="\t" if suffix == ".tsv" else ",")
    else:
        table.to_json(file, orient="records", lines=suffix != ".json")
    raw = read_source(file)
    assert raw.interactions.to_dict("list") == table.to_dict("list")
    assert raw.items["item_id"].tolist() == ["00", "0"]


def test_metadata_that_would_be_ignored_is_refused(tmp_path):
    write(tmp_path / "toy.inter", "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\n")
    with pytest.raises(ValueError, match="has its own items: leave metadata out"):
        read_source(tmp_path, metadata="meta.json")


def test_table_with_a_second_table_of_texts(tmp_path):
    events = write(tmp_path / "events.csv", "user_id,asin,timestamp\nu,a,1\nu,b,2\n")
    texts = write(tmp_path / "texts.csv", "asin,name\nb,B\na,A\n")
    raw = read_source(events, columns={"item_id": "asin", "title": "name"}, metadata=texts)
    assert raw.items.to_dict("list") == {"item_id": ["b", "a"], "title": ["B", "A"]}
    write(texts, "asin,name\na,A\na,B\n")
    with pytest.raises(ValueError, match="twice, such as 'a'"):
        read_source(events, columns={"item_id": "asin", "title": "name"}, metadata=texts)


@pytest.mark.parametrize(
    ("columns", "text", "message"),
    [
        ({"item_id": "asin"}, "user_id,item,timestamp\nu,a,1\n", r"no column 'asin', it has \['user_id', 'item'"),
        (
            None,
            "user,item_id,timestamp\nu,a,1\n",
            r"no column \['user_id'\], it has \['user', 'item_id', .*`--columns user_id=reviewer item_id=asin",
        ),
        ({"item_id": "sku"}, "user_id,sku,timestamp\nu,a,1.5\n", r"row 1 of events\.csv has '1\.5'"),
        (
            None,
            'user_id,item_id,timestamp,rating\nu,a,1,4\nu,b,2,"4,5"\n',
            r"row 2 of events\.csv has '4,5' .*'rating'",
        ),
        (None, "user_id,item_id,timestamp\n", r"events\.csv has 0 rows, none with a user"),
        (None, "user_id,item_id,timestamp\n,a,1\n", r"events\.csv has 1 rows, none with a user"),
        ({"user": "user_id"}, "user_id,item_id,timestamp\nu,a,1\n", r"got columns for \['user'\]"),
        (None, "user_id,item_id,timestamp\nu,a,soon\n", r"row 1 of events\.csv has 'soon' in the column 'timestamp'"),
    ],
)
def test_bad_tables_say_what_is_wrong(tmp_path, columns, text, message):
    file = write(tmp_path / "events.csv", text)
    with pytest.raises(ValueError, match=message):
        read_source(file, columns=columns)


def test_nothing_there_says_what_was_looked_for(tmp_path, no_hub):
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "absent", tmp_path / "empty", "nobody/nothing"):
        with pytest.raises(FileNotFoundError, match=r"RecBole .* MovieLens .* Amazon .* Hub"):
            read_source(source)
    with pytest.raises(ValueError, match=r"got the file notes\.txt"):
        read_source(write(tmp_path / "notes.txt", "hello"))


@pytest.mark.skipif(find_spec("recbole") is None, reason="the recbole wheel carries MovieLens-100K")
def test_ml_100k_of_the_wheel():
    raw = read_source("ml-100k")
    assert (len(raw.interactions), len(raw.items)) == (100_000, 1682)
    assert raw.items.iloc[0].tolist() == ["1", "Toy Story", "1995", "Animation, Children's, Comedy"]


def test_ml_100k_without_the_wheel_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("genrec_hf.data.readers.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps recbole"):
        read_source("ml-100k")


def seventeen_digits() -> tuple[pd.DataFrame, list[int]]:
    users = [12345678901234500 + k for k in range(40)]
    table = pd.DataFrame({"user_id": pd.array([*users, None], dtype="Int64"), "item_id": "a", "timestamp": 1577836800})
    return table, users


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json", ".csv"])
def test_forty_long_ids_and_a_missing_one_are_forty_users(tmp_path, suffix):
    table, users = seventeen_digits()
    file = tmp_path / f"events{suffix}"
    if suffix == ".parquet":
        # Without what pandas adds on its types, as other programs write it.
        pq.write_table(pa.Table.from_pandas(table).replace_schema_metadata(), file)
    elif suffix == ".csv":
        table.to_csv(file, index=False)
    else:
        records = [
            {**row, "user_id": row["user_id"] if row["user_id"] is not pd.NA else None}
            for row in table.to_dict("records")
        ]
        file.write_text("\n".join(map(json.dumps, records)) if suffix == ".jsonl" else json.dumps(records))
    raw = read_source(file)
    assert raw.interactions["user_id"].tolist() == [str(user) for user in users]
    assert raw.dropped == {"no user, item or time": 1}


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
def test_long_ids_that_were_floats_already_are_refused(tmp_path, suffix):
    table, _ = seventeen_digits()
    table["user_id"] = table["user_id"].astype("float64")
    file = tmp_path / f"events{suffix}"
    if suffix == ".parquet":
        table.to_parquet(file)
    elif suffix == ".csv":
        table.to_csv(file, index=False)
    else:
        file.write_text("\n".join(json.dumps(row) for row in table.dropna().to_dict("records")))
    with pytest.raises(ValueError, match=r"row 1 of events\..* in the column 'user_id': .* has lost digits"):
        read_source(file)


PAGE = "<script type='text/javascript'>var aPageStart = (new Date()).getTime();</script>"


def test_html_of_the_shop_is_no_text(tmp_path):
    write(tmp_path / "reviews.json", "\n".join(json.dumps({**REVIEW_2014, "asin": asin}) for asin in "ab"))
    description = "<style>p {}</style><p>Screens <10 cm and >2 cm</p><script>go()</script>Lip &amp;amp; care"
    items = [{"asin": "a", "title": PAGE, "description": description}, {"asin": "b", "title": "Lip &amp;amp; care"}]
    write(tmp_path / "meta.json", "\n".join(map(json.dumps, items)))
    raw = read_source(tmp_path)
    assert raw.items["title"].tolist() == ["", "Lip & care"]
    assert raw.items["description"].tolist() == ["Screens <10 cm and >2 cm Lip & care", ""]


def test_html_elsewhere_is_kept_and_stated_or_cleaned_when_asked_for(tmp_path, caplog):
    file = write(tmp_path / "events.csv", "user_id,item_id,timestamp,title\nu,a,1,Lip &amp; care\n")
    raw = read_source(file)
    assert raw.items["title"].tolist() == ["Lip &amp; care"]
    assert any("1 texts of events.csv look like HTML, such as 'Lip &amp; care'" in note for note in raw.notes)
    assert "look like HTML" in caplog.text
    assert read_source(file, html=True).items["title"].tolist() == ["Lip & care"]


def test_the_encoding_is_stated_in_every_reader(tmp_path):
    events = "user_id;item_id;timestamp\nRené;é;1577836800\n"
    for encoding, name in {"latin-1": "cp1252", "utf-16": "utf-16"}.items():
        raw = read_source(write(tmp_path / "events.csv", events, encoding))
        assert raw.interactions["user_id"].tolist() == ["René"] and raw.interactions["item_id"].tolist() == ["é"]
        assert raw.notes == (
            "the columns of events.csv are separated by semicolon",
            f"events.csv is not UTF-8 and was read as {name}; set `encoding` for another one",
        )
    write(tmp_path / "toy.inter", "user_id:token\titem_id:token\ttimestamp:float\nRené\té\t1577836800\n", "latin-1")
    raw = read_source(tmp_path / "toy.inter")
    assert raw.interactions["user_id"].tolist() == ["René"] and "toy.inter is not UTF-8" in raw.notes[0]
    raw = read_source(tmp_path / "toy.inter", encoding="cp1251")
    assert raw.interactions["user_id"].tolist() == ["Renй"] and not raw.notes
    write(tmp_path / "ml" / "ratings.dat", "1::7::5::978300760\n")
    write(tmp_path / "ml" / "movies.dat", "7::Misérables::Drama\n", "latin-1")
    raw = read_source(tmp_path / "ml")
    assert (
        raw.items["title"].tolist() == ["Misérables"]
        and "movies.dat is not UTF-8 and was read as latin-1" in raw.notes[0]
    )
    write(tmp_path / "ml" / "movies.dat", "7::Misérables::Drama\n")
    assert read_source(tmp_path / "ml").items["title"].tolist() == ["Misérables"]


def test_byte_order_marks_are_no_part_of_a_name(tmp_path):
    for suffix in (".csv", ".jsonl"):
        table = pd.DataFrame({"user_id": ["u"], "item_id": ["a"], "timestamp": [1]})
        text = table.to_csv(index=False) if suffix == ".csv" else table.to_json(orient="records", lines=True)
        assert read_source(write(tmp_path / f"events{suffix}", text, "utf-8-sig")).interactions[
            "user_id"
        ].tolist() == ["u"]


@pytest.mark.parametrize("name", ["events.csv.gz", "reviews.jsonl.gz", "toy.inter"])
def test_damaged_gzip_files_are_refused_by_name(tmp_path, name):
    text = "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\n"
    text = (
        json.dumps(REVIEW_2023) + "\n"
        if "json" in name
        else text
        if "inter" in name
        else "user_id,item_id,timestamp\nu,a,1\n"
    )
    packed = gzip.compress(text.encode())
    for content, message in {
        packed[:-6]: "damaged gzip file",
        gzip.compress(packed): "compressed by gzip twice",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is (a )?{message}"):
            read_source(tmp_path / name)


def two_tables(tmp_path: Path, events: str, items: str, name: str = "item_id") -> tuple[Path, Path]:
    return (
        write(tmp_path / "events.csv", "user_id,item_id,timestamp\n" + events),
        write(tmp_path / "items.csv", f"{name},title\n" + items),
    )


def test_a_join_that_matches_nothing_is_an_error_with_ids_of_both_sides(tmp_path):
    events, items = two_tables(tmp_path, "u,1000.0,1\nu,1001.0,2\n", "1000,One\n1001,Two\n1002,Three\n1003,Four\n")
    message = r"such as \['1000\.0', '1001\.0'\], is in items\.csv, which has \['1000', '1001', '1002'\]"
    with pytest.raises(ValueError, match=message):
        read_source(events, metadata=items)
    write(tmp_path / "items.csv", "item_id,title\n")
    with pytest.raises(ValueError, match=r"is in items\.csv, which has \[\]"):
        read_source(events, metadata=items)


def test_a_small_overlap_is_stated_with_its_share(tmp_path, caplog):
    events, items = two_tables(tmp_path, "u,1,1\nu,2,2\nu,3,3\n", "1,One\n")
    raw = read_source(events, metadata=items)
    stated = [note for note in raw.notes if "have a row in items.csv" in note]
    assert stated and stated[0].startswith("33.3% of the 3 items of events.csv") and "['2', '3']" in stated[0]
    assert stated[0] in caplog.text
    write(tmp_path / "items.csv", "item_id,title\n1,One\n2,Two\n")
    assert not [note for note in read_source(events, metadata=items).notes if "have a row" in note]


def test_spaces_around_ids_of_delimited_text_are_no_part_of_them(tmp_path):
    events, items = two_tables(tmp_path, 'u ,"12 ",1\nu, 13,2\n', "12,One\n13 ,Two\n")
    raw = read_source(events, metadata=items)
    assert raw.interactions[["user_id", "item_id"]].to_numpy().tolist() == [["u", "12"], ["u", "13"]]
    assert raw.items["item_id"].tolist() == ["12", "13"]
    assert "spaces around 2 ids in the column 'item_id' of events.csv were removed" in raw.notes
    # In JSON a space is somebody's intent, and a join without match is an error.
    write(tmp_path / "events.jsonl", json.dumps({"user_id": "u", "item_id": "12 ", "timestamp": 1}))
    with pytest.raises(ValueError, match=r"no item id of events\.jsonl, such as \['12 '\]"):
        read_source(tmp_path / "events.jsonl", metadata=items)


def test_two_tables_that_name_the_item_differently(tmp_path):
    events, items = two_tables(tmp_path, "u,1,1\n", "1,One\n", name="sku")
    named = {"metadata": items, "metadata_columns": {"item_id": "sku"}}
    for how in (named, {"metadata": items, "columns": {"item_id": "sku"}}):
        assert read_source(events, **how).items.to_dict("list") == {"item_id": ["1"], "title": ["One"]}
    with pytest.raises(
        ValueError, match=r"items\.csv has no column \['item_id'\], it has \['sku', 'title'\].*--metadata_columns"
    ):
        read_source(events, metadata=items)
    with pytest.raises(ValueError, match=r"neither events\.csv nor items\.csv has a column 'asin'"):
        read_source(events, metadata=items, columns={"item_id": "asin"})
    with pytest.raises(ValueError, match="got metadata_columns without metadata"):
        read_source(events, metadata_columns={"item_id": "sku"})
    with pytest.raises(ValueError, match=r"got metadata_columns for \['user_id'\]"):
        read_source(events, metadata=items, metadata_columns={"user_id": "sku"})


def test_recbole_files_can_be_mapped(tmp_path):
    write(tmp_path / "toy.inter", "session:token\tproduct:token\tts:float\nu\ta\t1577836800\n")
    write(tmp_path / "toy.item", "sku:token\tname:token_seq\na\tSoap\n")
    with pytest.raises(
        ValueError, match=r"toy\.inter has no column \['user_id', 'item_id', 'timestamp'\], it has \['session',"
    ):
        read_source(tmp_path)
    columns = {"user_id": "session", "item_id": "product", "timestamp": "ts"}
    raw = read_source(tmp_path, columns=columns, metadata_columns={"item_id": "sku", "title": "name"})
    assert raw.interactions.to_numpy().tolist() == [["u", "a", 1577836800]]
    assert raw.items.to_dict("list") == {"item_id": ["a"], "title": ["Soap"]}


def test_options_that_would_do_nothing_are_refused(tmp_path):
    events = "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1577836800\n"
    file = write(tmp_path / "toy.inter", events)
    for how in ({"columns": {"title": "name"}}, {"metadata_columns": {"item_id": "sku"}}):
        with pytest.raises(ValueError, match=r"toy\.inter has no \.item file next to it"):
            read_source(tmp_path, **how)
    table = write(tmp_path / "events.csv", "user_id,item_id,timestamp\nu,a,1\n")
    with pytest.raises(ValueError, match=r"got one column of events\.csv for two of user, item and time"):
        read_source(table, columns={"user_id": "item_id"})
    with pytest.raises(FileNotFoundError, match=r"got '.*nothing\.csv': no local file"):
        read_source(table, metadata=tmp_path / "nothing.csv")
    with pytest.raises(ValueError, match=r"got subset='de', and toy\.inter is not a data set of the Hub"):
        read_source(file, subset="de")
    reviews = write(tmp_path / "reviews.json", json.dumps(REVIEW_2014) + "\n")
    with pytest.raises(ValueError, match="has known column names: leave metadata_columns out"):
        read_source(reviews, metadata_columns={"item_id": "asin"})


def test_a_table_that_is_called_as_movielens_is_told(tmp_path):
    write(tmp_path / "ratings.csv", "user,item,time\nu,a,1\n")
    write(tmp_path / "movies.csv", "item,name\na,A\n")
    with pytest.raises(
        ValueError, match=r"names of MovieLens files and other columns .*give ratings\.csv itself as source"
    ):
        read_source(tmp_path)


def test_users_without_times_are_stated(tmp_path):
    file = write(tmp_path / "events.csv", "user_id,item_id,timestamp\nu,a,0\nu,b,0\nv,a,1577836800\n")
    raw = read_source(file)
    assert raw.time_unit == "seconds" and raw.interactions["timestamp"].tolist() == [0, 0, 1577836800]
    assert raw.notes == ("1 users of events.csv have no times (all are 0): their events are in the order of the file",)
    write(file, "user_id,item_id,timestamp\nu,a,0\nu,b,1577836800\n")
    assert "1 events of events.csv have the time 0, others of their users do not" in read_source(file).notes[0]


def test_years_of_a_column_with_gaps(tmp_path):
    file = write(tmp_path / "events.csv", "user_id,item_id,timestamp,title,year\nu,a,1,Heat,1995.0\nu,b,2,Up,\n")
    assert read_source(file).items["year"].tolist() == ["1995", ""]


def test_no_source_is_not_the_working_directory():
    with pytest.raises(ValueError, match="got source='': give a folder"):
        read_source("")
