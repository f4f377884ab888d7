"""Result keys and UIDs: functions of the input, and valid whatever the input is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from dicom_node.results.identifiers import (
    finding_tracking_uid,
    lesion_tracking_uid,
    result_key,
    result_uid,
)

uids = st.lists(st.from_regex(r"[1-9][0-9]{0,8}(\.[1-9][0-9]{0,8}){1,5}", fullmatch=True), min_size=1)


@given(uids, st.randoms(), st.text(), st.text())
def test_key_does_not_depend_on_the_order_of_slices(sop_uids, random, checkpoint, settings):
    shuffled = list(sop_uids)
    random.shuffle(shuffled)
    assert result_key(sop_uids, checkpoint, settings) == result_key(shuffled, checkpoint, settings)


@given(uids, st.text(), st.text())
def test_key_depends_on_every_part(sop_uids, checkpoint, settings):
    key = result_key(sop_uids, checkpoint, settings)
    assert len(key) == 64
    assert key != result_key([*sop_uids, "1.2.99999999999"], checkpoint, settings)
    assert key != result_key(sop_uids, checkpoint + "x", settings)
    assert key != result_key(sop_uids, checkpoint, settings + "x")
    if checkpoint != settings:
        assert key != result_key(sop_uids, settings, checkpoint)


@given(st.text(), st.text())
def test_uids_are_valid_and_repeatable(key, role):
    uid = result_uid(key, role)
    assert isinstance(uid, UID)
    assert uid.is_valid
    assert len(uid) <= 64
    assert uid == result_uid(key, role)


def test_roles_do_not_collide():
    uids = [result_uid("k", "sr"), result_uid("k", "sr-series"), finding_tracking_uid("k", "liver", "x")]
    uids += [lesion_tracking_uid("k", label) for label in range(1, 200)]
    assert len(set(uids)) == len(uids)


@pytest.mark.parametrize("sop_uids", [[], ["1.2", ""]])
def test_a_slice_without_uid_is_refused(sop_uids):
    with pytest.raises(ValueError, match="sop_instance_uids"):
        result_key(sop_uids, "c", "s")
