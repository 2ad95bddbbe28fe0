import re

from framefeat.names import video_key
from hypothesis import given
from hypothesis import strategies as st


def test_plain_ids_stay_readable() -> None:
    assert video_key("AwmHb44_ouw") == "AwmHb44_ouw"
    assert video_key("-esJrBWj2d8") == "%2DesJrBWj2d8"
    assert video_key("../../etc/passwd") == "%2E.%2F..%2Fetc%2Fpasswd"
    assert video_key("a b/ü") == "a%20b%2F%C3%BC"


@given(st.text(min_size=1, max_size=400))
def test_any_id_is_a_safe_file_name(video_id: str) -> None:
    key = video_key(video_id)
    assert re.fullmatch(r"[A-Za-z0-9_%][A-Za-z0-9._%~-]*", key)
    assert len(key) <= 180


@given(st.lists(st.text(min_size=1, max_size=300), unique=True, max_size=20))
def test_different_ids_have_different_keys(ids: list[str]) -> None:
    assert len({video_key(video_id) for video_id in ids}) == len(ids)
