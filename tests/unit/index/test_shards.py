"""How videos are dealt into shards: from their ids, their number and their rows alone."""

import math
import random
import re
from collections import Counter

import pytest
from framefeat.index.shards import FEWEST, buckets, deal
from framefeat.names import video_key
from hypothesis import given, settings
from hypothesis import strategies as st

NAME = re.compile(r"shard\+(\d+)of(\d+)")


def collection(videos: int, most_rows: int, seed: int) -> dict[str, int]:
    """Rows by key."""
    chance = random.Random(seed)
    return {f"v{chance.getrandbits(40):x}": chance.randint(1, most_rows) for _ in range(videos)}


COLLECTIONS = st.builds(collection, st.integers(FEWEST + 1, 300), st.integers(1, 5000), st.integers())
SHARD_ROWS = st.none() | st.integers(1, 10_000)


def places(dealt: dict[str, str]) -> tuple[dict[str, int], int]:
    """The bucket of each video, and how many buckets there are."""
    found = {key: NAME.fullmatch(shard) for key, shard in dealt.items()}
    counts = {int(match[2]) for match in found.values() if match}
    assert len(counts) == 1
    return {key: int(match[1]) for key, match in found.items() if match}, counts.pop()


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.text(min_size=1).map(video_key), st.integers(1, 10**6), max_size=FEWEST), SHARD_ROWS
)
def test_few_videos_are_a_shard_each(rows: dict[str, int], shard_rows: int | None) -> None:
    """Unless there are not rows enough for as many shards of the length that is asked for."""
    alone = {key: key for key in rows}
    assert deal(rows) == alone
    if shard_rows is not None:
        assert (deal(rows, shard_rows) == alone) == (sum(rows.values()) >= len(rows) * shard_rows)


def test_64_are_few_and_65_are_not() -> None:
    rows = {f"v{number}": 10 for number in range(FEWEST + 1)}
    assert places(deal(rows))[1] == FEWEST
    del rows["v0"]
    assert set(deal(rows).values()) == set(rows)


@settings(max_examples=40, deadline=None)
@given(st.integers(FEWEST + 1, 10**6), st.integers(1, 10**4), st.integers(1, 10**5))
def test_number_of_buckets(videos: int, rows_each: int, shard_rows: int) -> None:
    rows = videos * rows_each
    count = buckets(videos, rows, shard_rows)
    assert count & (count - 1) == 0
    assert 1 <= count <= videos
    assert buckets(videos, rows) >= FEWEST
    near = math.sqrt(2) * (1 + 1e-9)  # a power of two is that near to any number
    at_most = 2 * count > videos
    assert at_most or videos / count <= 1000 * near
    assert at_most or rows / count <= shard_rows * near
    many_videos = videos / count >= 1000 / near
    assert count == 1 or many_videos or rows / count >= shard_rows / near


@pytest.mark.parametrize(
    ("videos", "rows", "shard_rows", "count"),
    [
        (200, 2000, None, 64),  # 10 rows each: fewer would do
        (10_000, 100_000, None, 256),  # 391 rows each
        (100_000, 1_000_000, None, 2048),
        (100_000, 1_000_000, 5000, 256),
        (24, 120, 5000, 1),
        (200, 2000, 500, 4),
        (100_000, 100_000, 10_000_000, 128),  # bounded by the number of videos
        (100, 10**6, None, 64),  # long videos: never more buckets than videos
        (1000, 10**7, None, 512),
    ],
)
def test_examples(videos: int, rows: int, shard_rows: int | None, count: int) -> None:
    assert buckets(videos, rows, shard_rows) == count


@settings(max_examples=40, deadline=None)
@given(COLLECTIONS, SHARD_ROWS, st.randoms(use_true_random=False))
def test_order_does_not_matter(rows: dict[str, int], shard_rows: int | None, chance: random.Random) -> None:
    shuffled = list(rows.items())
    chance.shuffle(shuffled)
    assert deal(dict(shuffled), shard_rows) == deal(rows, shard_rows)


@settings(max_examples=40, deadline=None)
@given(COLLECTIONS, SHARD_ROWS)
def test_the_other_videos_do_not_matter(rows: dict[str, int], shard_rows: int | None) -> None:
    """As many others with as many rows: each video stays where it is."""
    kept = dict(list(rows.items())[:5])
    others = {f"~other {number}": count for number, count in enumerate(list(rows.values())[5:])}
    dealt, among_others = deal(rows, shard_rows), deal(kept | others, shard_rows)
    assert {key: dealt[key] for key in kept} == {key: among_others[key] for key in kept}


@settings(max_examples=40, deadline=None)
@given(COLLECTIONS)
def test_a_video_more_moves_none_while_their_number_does_not_double(rows: dict[str, int]) -> None:
    (before, count), (after, now) = places(deal(rows)), places(deal(rows | {"~more": 1}))
    if count == now:
        assert before.items() <= after.items()
    else:
        assert {key: after[key] * count // now for key in before} == before or now < count


@pytest.mark.parametrize("shard_rows", [2000, 1000, 500])
def test_where_their_number_doubles_each_bucket_becomes_two(shard_rows: int) -> None:
    rows = {video_key(f"v {number}"): 50 for number in range(4000)}
    (whole, count), (halves, twice) = places(deal(rows, shard_rows)), places(deal(rows, shard_rows // 2))
    assert twice == 2 * count
    assert {key: place // 2 for key, place in halves.items()} == whole
    split = Counter((whole[key], halves[key]) for key in rows)
    assert len(split) > 1.5 * len(set(whole.values()))


def test_videos_are_spread_evenly() -> None:
    dealt, count = places(deal({f"v_abcd_g{number:06}": 1 for number in range(64 * 100)}))
    sizes = Counter(dealt.values())
    assert len(sizes) == count == 64
    assert max(sizes.values()) < 160
    assert min(sizes.values()) > 50


def test_a_shard_stays_what_it_is_called() -> None:
    """Dealt otherwise, all shards of every collection would be new."""
    assert deal(dict.fromkeys((f"v{number}" for number in range(65)), 10))["v7"] == "shard+08of64"


@settings(max_examples=40, deadline=None)
@given(COLLECTIONS, SHARD_ROWS)
def test_names_sort_as_their_numbers_and_are_file_names(rows: dict[str, int], shard_rows: int | None) -> None:
    dealt = deal(rows, shard_rows)
    in_order = sorted(dealt, key=lambda key: dealt[key])
    place_of, _ = places(dealt)
    numbers = [place_of[key] for key in in_order]
    assert numbers == sorted(numbers)
    assert {re.sub(r"[\w+]", "", shard) for shard in dealt.values()} == {""}


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1))
def test_no_video_has_the_name_of_a_bucket(video_id: str) -> None:
    assert "+" not in video_key(video_id)


def test_a_video_called_like_a_bucket_is_no_bucket() -> None:
    assert video_key("shard+00of64") == "shard%2B00of64"
