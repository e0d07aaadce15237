"""Model locations: every accepted form, every refusal, and the round-trip laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.uri import InvalidModelUri, ModelUri, Scheme

CANONICAL = [
    ("hf://meta-llama/Llama-3.1-8B-Instruct", Scheme.HF, "meta-llama/Llama-3.1-8B-Instruct", None, None),
    ("hf://a/b:refs/pr/1", Scheme.HF, "a/b", "refs/pr/1", None),
    ("hf://a/b:5825c91?file=sub/config.json", Scheme.HF, "a/b", "5825c91", "sub/config.json"),
    ("hf://a/b?file=my%20weights.safetensors", Scheme.HF, "a/b", None, "my weights.safetensors"),
    ("modelscope://LLM-Research/Llama-3.2-1B-Instruct:d3e55134", Scheme.MODELSCOPE, "LLM-Research/Llama-3.2-1B-Instruct", "d3e55134", None),
    ("ngc://nim/meta/llama3-8b-instruct:hf?file=config.json", Scheme.NGC, "nim/meta/llama3-8b-instruct", "hf", "config.json"),
    ("ngc://nim/llama:1.0", Scheme.NGC, "nim/llama", "1.0", None),
    ("s3://my-bucket/my-org/my-model", Scheme.S3, "my-bucket/my-org/my-model", None, None),
    ("s3://nim_bucket", Scheme.S3, "nim_bucket", None, None),
    ("s3://b-1/a%20b/c:d?file=x%3Fy.json", Scheme.S3, "b-1/a b/c:d", None, "x?y.json"),
    ("gs://bucket/prefix?file=a/b", Scheme.GS, "bucket/prefix", None, "a/b"),
    ("az://account1/my-container/org/model", Scheme.AZ, "account1/my-container/org/model", None, None),
    ("az://abc/models?file=x%3Fy.json", Scheme.AZ, "abc/models", None, "x?y.json"),
    ("az://abc/$web/a%20b:c", Scheme.AZ, "abc/$web/a b:c", None, None),
    ("local:///mnt/models/llama-3.1-8b", Scheme.LOCAL, "/mnt/models/llama-3.1-8b", None, None),
    ("local:///mnt/a%20b?file=config.json", Scheme.LOCAL, "/mnt/a b", None, "config.json"),
    ("/mnt/models/my model", Scheme.PATH, "/mnt/models/my model", None, None),
    ("/mnt/100%/x", Scheme.PATH, "/mnt/100%/x", None, None),
    ("https://mirror.example.com:8443/models", Scheme.HTTPS, "mirror.example.com:8443/models", None, None),
    ("http://[::1]:8080/m?file=a.json", Scheme.HTTP, "[::1]:8080/m", None, "a.json"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "scheme", "location", "revision", "file"), CANONICAL, ids=[row[0] for row in CANONICAL]
)
def test_an_accepted_form_is_read_and_written_back_unchanged(text, scheme, location, revision, file):
    uri = ModelUri.parse(text)
    assert uri == ModelUri(scheme, location, revision, file)
    assert str(uri) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("HF://a/b", "hf://a/b"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("s3://bucket/a b", "s3://bucket/a%20b"),
        ("/mnt//models/./x/", "/mnt/models/x"),
        ("local:///mnt/x/", "local:///mnt/x"),
        ("gs://bucket/a%2fb", "gs://bucket/a/b"),
        ("az://abc/models/", "az://abc/models"),
        ("az://abc/%24root/x/", "az://abc/$root/x"),
        ("hf://a/b:refs%2Fpr%2F1", "hf://a/b:refs/pr/1"),
    ],
)
def test_other_spellings_become_the_canonical_one(text, canonical):
    assert str(ModelUri.parse(text)) == canonical


REFUSED = [
    ("", "empty"),
    ("meta-llama/Llama-3.1-8B", "no scheme"),
    ("./model", "no scheme"),
    ("file:///mnt/x", "unknown"),
    ("path:///mnt/x", "unknown"),
    ("hf://gpt2", "2 names"),
    ("hf://a/b/c", "2 names"),
    ("hf://a/", "2 names"),
    ("hf:///b", "2 names"),
    ("hf://../etc", "2 names"),
    ("hf://a/b:", "revision"),
    ("hf://a/b:../x", "revision"),
    ("hf://a/b:x/", "revision"),
    ("hf://a b/c", "2 names"),
    ("hf://a/b?rev=1", "file="),
    ("hf://a/b?file=", "relative"),
    ("hf://a/b?file=/etc/passwd", "relative"),
    ("hf://a/b?file=../x", "relative"),
    ("hf://a/b?file=%2e%2e/x", "relative"),
    ("hf://a/b?file=a&file=b", "file="),
    ("hf://a/b?file=%zz", "hexadecimal"),
    ("hf://a/b?file=%ff", "UTF-8"),
    ("hf://a/b?file=a%00b", "control"),
    ("hf://a/b\nc", "control"),
    ("ngc://org/model", "version"),
    ("ngc://org/a/b/c:1", "2 or 3 names"),
    ("s3:///prefix", "bucket"),
    ("s3://b!/x", "bucket"),
    ("s3://bucket/../x", "prefix"),
    ("s3://bucket/a//b", "prefix"),
    ("az://abc", "container"),
    ("az://abc/", "container"),
    ("az:///models/x", "storage account"),
    ("az://ab/models", "storage account"),
    ("az://Abc/models", "storage account"),
    ("az://my-account/models", "storage account"),
    (f"az://{'a' * 25}/models", "storage account"),
    ("az://abc/mo", "container"),
    ("az://abc/Models", "container"),
    ("az://abc/a--b", "container"),
    ("az://abc/-models", "container"),
    ("az://abc/models-", "container"),
    ("az://abc/$logs", "container"),
    (f"az://abc/{'a' * 64}", "container"),
    ("az://abc/models/../x", "prefix"),
    ("az://abc/models//x", "prefix"),
    ("az://abc/models:v1/x", "container"),
    ("local://mnt/x", "not absolute"),
    ("local:///mnt/../etc", "'..'"),
    ("/mnt/../etc", "'..'"),
    ("https://user:secret@host/x", "credentials"),
    ("https://", "host"),
    ("http://host:port/x", "host"),
    ("/mnt/\udce4", "UTF-8"),
]


@pytest.mark.parametrize(("text", "why"), REFUSED, ids=[repr(row[0]) for row in REFUSED])
def test_what_is_not_a_location_is_refused_with_the_accepted_forms(text, why):
    with pytest.raises(InvalidModelUri) as refusal:
        ModelUri.parse(text)
    assert why in refusal.value.message
    assert "accepted form" in refusal.value.remedy
    assert refusal.value.exit_code == 2


def test_a_bare_hub_name_gets_the_scheme_it_lacks_suggested():
    with pytest.raises(InvalidModelUri) as refusal:
        ModelUri.parse("meta-llama/Llama-3.1-8B:main")
    assert "hf://meta-llama/Llama-3.1-8B:main" in refusal.value.remedy


def test_credentials_in_a_refused_url_are_not_repeated():
    with pytest.raises(InvalidModelUri) as refusal:
        ModelUri.parse("https://user:hunter2@host/x")
    assert "hunter2" not in f"{refusal.value.message}{refusal.value.remedy}"


@pytest.mark.parametrize(
    ("text", "revision"),
    [("hf://a/b", "main"), ("modelscope://a/b", "master"), ("s3://bucket/x", None), ("hf://a/b:x", "x")],
)
def test_an_unnamed_revision_is_the_schemes_default(text, revision):
    assert ModelUri.parse(text).effective_revision == revision


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf://meta-llama/Llama-3.1-8B-Instruct:main", "meta-llama/Llama-3.1-8B-Instruct"),
        ("ngc://org/team/model:tag", "org/team/model"),
        ("s3://bucket/a:b", "bucket/a-b"),
        ("az://abc/models/a:b", "abc/models/a-b"),
        ("/model-repo", "/model-repo"),
        ("https://host:8080/m", "host-8080/m"),
    ],
)
def test_the_served_name_drops_scheme_and_revision(text, name):
    assert ModelUri.parse(text).served_name == name


def test_a_file_of_a_bare_path_is_written_in_the_form_of_manifests():
    assert str(ModelUri.parse("/mnt/a b").with_file("config.json")) == "local:///mnt/a%20b?file=config.json"


NAME = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)
REVISION = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_+-]{0,8}(/[A-Za-z0-9_-]{1,8})?", fullmatch=True)
PART = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=12).filter(
    lambda part: part not in (".", "..")
)
ACCOUNT = st.from_regex(r"[a-z0-9]{3,24}", fullmatch=True)
CONTAINER = st.from_regex(r"[a-z0-9]{3,9}(-[a-z0-9]{1,9}){0,5}", fullmatch=True) | st.sampled_from(["$root", "$web"])
PATH = st.lists(PART, min_size=1, max_size=4).map("/".join)
FILE = st.none() | PATH
URIS = st.one_of(
    st.builds(ModelUri, st.sampled_from([Scheme.HF, Scheme.MODELSCOPE]), st.tuples(NAME, NAME).map("/".join), st.none() | REVISION, FILE),
    st.builds(ModelUri, st.just(Scheme.NGC), st.lists(NAME, min_size=2, max_size=3).map("/".join), REVISION, FILE),
    st.builds(ModelUri, st.sampled_from([Scheme.S3, Scheme.GS]), st.tuples(st.just("bucket"), PATH).map("/".join), st.none(), FILE),
    st.builds(ModelUri, st.just(Scheme.AZ), st.tuples(ACCOUNT, CONTAINER, PATH).map("/".join), st.none(), FILE),
    st.builds(ModelUri, st.just(Scheme.LOCAL), PATH.map("/".__add__), st.none(), FILE),
    st.builds(ModelUri, st.just(Scheme.PATH), PATH.map("/".__add__), st.none(), st.none()),
    st.builds(ModelUri, st.sampled_from([Scheme.HTTP, Scheme.HTTPS]), st.tuples(st.just("host:80"), PATH).map("/".join), st.none(), FILE),
)  # fmt: skip


@given(URIS)
def test_parsing_what_was_written_gives_the_value_back(uri):
    assert ModelUri.parse(str(uri)) == uri


@given(URIS)
def test_written_text_is_canonical(uri):
    assert str(ModelUri.parse(str(uri))) == str(uri)


@given(
    st.text(max_size=60)
    | st.text(max_size=40).map("hf://".__add__)
    | st.text(max_size=40).map("s3://b-1/".__add__)
    | st.text(max_size=40).map("az://abc/".__add__)
)
def test_any_text_is_a_location_or_a_refusal_never_a_crash(text):
    try:
        uri = ModelUri.parse(text)
    except InvalidModelUri:
        return
    assert ModelUri.parse(str(uri)) == uri
