"""What a source lists: every file with its size and place, once, pinned, whatever it is called."""

from __future__ import annotations

import json

import pytest

from lading.errors import FileNotFoundAtSource, ModelNotFound, UsageError
from lading.model.manifest import Manifest
from lading.sources import about_sources
from lading.uri import ModelUri, Scheme
from tests.sources.contract.models import FILES, NAMES, WEIGHTS, keeps_promise, read, source_of
from tests.sources.contract.stand import Stand
from tests.sources.contract.stands import STANDS


def test_every_scheme_that_is_read_has_a_stand():
    assert {kind.scheme for kind in STANDS.values()} >= set(about_sources())


def test_every_file_is_listed_with_its_size_in_order(stand):
    manifest = stand.listed(source_of(stand))
    assert [(each.path, each.size_bytes) for each in manifest.files] == [
        (path, len(FILES[path])) for path in sorted(FILES)
    ]


def test_every_listed_file_is_read_whatever_its_name(stand):
    source = source_of(stand)
    assert {each.path: read(source, each) for each in stand.listed(source).files} == FILES


def test_a_promised_digest_is_that_of_the_bytes(stand):
    for each in stand.listed(source_of(stand)).files:
        assert keeps_promise(each, FILES[each.path])


def test_a_listing_names_what_the_user_named(stand):
    if not stand.can_list:
        pytest.skip("files are named one by one")
    assert source_of(stand).list_files(stand.uri).source == stand.uri


def test_listing_twice_gives_equal_manifests(stand):
    source = source_of(stand)
    assert stand.listed(source) == stand.listed(source) == stand.listed(source_of(stand))


def test_a_manifest_that_was_written_down_is_read_by_another_process(stand):
    manifest = stand.listed(source_of(stand))
    recalled = Manifest.from_json(json.loads(json.dumps(manifest.to_json())))
    assert recalled == manifest
    source = source_of(stand)
    assert {each.path: read(source, each) for each in recalled.files} == FILES


@pytest.mark.parametrize("path", [WEIGHTS, NAMES, "__init__.py"])
def test_one_file_is_listed_where_it_is_named(stand, path):
    if stand.scheme is Scheme.PATH:
        pytest.skip("a bare path has no ?file=")
    source = source_of(stand)
    [entry] = source.list_files(ModelUri.parse(str(stand.uri.with_file(path)))).files
    assert entry == stand.listed(source).find(path)
    assert read(source, entry) == FILES[path]


def test_pages_are_put_together(stand):
    for number in range(20):
        stand.files[f"shards/{number:03}.bin"] = b"%d" % number
    stand.publish()
    if stand.scheme not in (Scheme.LOCAL, Scheme.PATH):
        stand.page_by(3)
    assert [each.path for each in stand.listed(source_of(stand)).files] == sorted(stand.files)


def test_a_file_that_is_not_there_is_told_with_names_like_it(stand):
    with pytest.raises(FileNotFoundAtSource) as caught:
        source_of(stand).list_files(stand.uri.with_file("modle.safetensors"))
    assert not stand.can_list or WEIGHTS in (caught.value.remedy or "")


def test_a_model_that_is_not_there_is_told(stand: Stand):
    if stand.can_list:
        with pytest.raises(ModelNotFound) as caught:
            source_of(stand).list_files(stand.missing)
        assert caught.value.remedy
    else:
        with pytest.raises(UsageError):
            source_of(stand).list_files(stand.missing)


def test_a_model_beside_it_is_no_part_of_it(stand):
    """``org/tinier`` starts as ``org/tiny`` does; the stands that have prefixes hold it."""
    assert not [each for each in stand.listed(source_of(stand)).files if "tinier" in each.path]
    assert set(FILES) == {each.path for each in stand.listed(source_of(stand)).files}


def test_the_credential_is_told_by_name_and_the_endpoint_without_it(stand):
    access = source_of(stand).access(stand.uri)
    assert not set("@?") & set(access.endpoint)
    if stand.named is None:
        assert access.credential is None
    else:
        assert stand.named in (access.credential or "")
    assert not [each for each in stand.secrets if each in repr(access)]
