import io
import tarfile

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from luss_ray.storage.tar import scan_tar, write_tar

_NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=150).map(
    lambda text: text.replace("/", "_").replace("\\", "_")
)
_MEMBERS = st.lists(st.tuples(_NAMES, st.binary(max_size=1500)), max_size=8, unique_by=lambda member: member[0])


@given(_MEMBERS)
def test_members_are_where_they_are_said_to_be(members):
    out = io.BytesIO()
    written = write_tar(out, iter(members))
    data = out.getvalue()
    assert [data[place.offset : place.offset + place.size_bytes] for place in written] == [data for _, data in members]
    assert scan_tar(io.BytesIO(data)) == written
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert [(info.name, tar.extractfile(info).read()) for info in tar] == members  # type: ignore[union-attr]


@given(_MEMBERS)
def test_equal_members_give_equal_bytes(members):
    first, second = io.BytesIO(), io.BytesIO()
    write_tar(first, members)
    write_tar(second, members)
    assert first.getvalue() == second.getvalue()
    assert len(first.getvalue()) % tarfile.RECORDSIZE == 0


@pytest.mark.parametrize("cut", [100, 700, 1200])
def test_a_tar_that_was_cut_is_not_complete(cut):
    out = io.BytesIO()
    write_tar(out, [("a.jpg", bytes(1000)), ("b.jpg", bytes(1000))])
    with pytest.raises(ValueError, match="not a complete tar"):
        scan_tar(io.BytesIO(out.getvalue()[:cut]))


def test_webdataset_groups_the_members_of_a_sample(tmp_path):
    samples = {"n01/a_1": {"jpg": b"1", "mask.png": b"2", "cls": b"0"}, "n.02/b": {"jpg": b"3", "cls": b"1"}}
    with (tmp_path / "0.tar").open("wb") as out:
        write_tar(out, ((f"{key}.{kind}", data) for key, sample in samples.items() for kind, data in sample.items()))
    read = list(webdataset.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in read] == list(samples)
    for sample in read:
        assert {kind: sample[kind] for kind in sample if not kind.startswith("__")} == samples[sample["__key__"]]
