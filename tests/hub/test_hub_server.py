"""The loopback Hub, as the real clients of the Hub see it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import HubServer, Repo
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as hub:
        yield hub


@pytest.fixture
def api(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HfApi:
    return hub.connect(monkeypatch, tmp_path / "home")


def add(**files: bytes) -> list[CommitOperationAdd]:
    """Operations that add files; the name's "__" is a dot, and its "___" a slash."""
    return [CommitOperationAdd(n.replace("___", "/").replace("__", "."), data) for n, data in files.items()]


def raw(url: str, data: bytes | None = None, method: str | None = None, **headers: str) -> tuple[int, bytes, Any]:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    headers.setdefault("Authorization", "Bearer hf_nobody")
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method)) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def commit_lines(*operations: dict[str, Any], **header: str) -> bytes:
    lines = [{"key": "header", "value": {"summary": "raw", "description": "", **header}}, *operations]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


# --- repositories and their history -------------------------------------------------------------------


def test_what_is_pushed_comes_back(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    url = api.create_repo("me/m", private=True)
    assert (url.repo_id, url.repo_type, str(url)) == ("me/m", "model", f"{hub.url}/me/m")
    with pytest.raises(HfHubHTTPError) as there:
        api.create_repo("me/m")
    assert there.value.response.status_code == 409
    assert str(api.create_repo("me/m", exist_ok=True)) == str(url)

    first = api.create_commit("me/m", add(README__md=b"# one\n", model__safetensors=WEIGHTS), commit_message="one")
    second = api.create_commit("me/m", add(README__md=b"# two\n", a___b__txt=b""), commit_message="two")
    repo = hub.repos["model", "me/m"]
    assert repo.private and repo.commits == ["one", "two"] and repo.sha == second.oid
    assert repo.files == {"README.md": b"# two\n", "model.safetensors": WEIGHTS, "a/b.txt": b""}
    assert second.commit_url == f"{hub.url}/me/m/commit/{second.oid}" and second.repo_url.repo_id == "me/m"
    assert [commit.title for commit in api.list_repo_commits("me/m")] == ["two", "one", "initial commit"]

    api.create_tag("me/m", tag="v1", revision=first.oid)
    api.create_branch("me/m", branch="next/step", revision=first.oid)
    for revision in (first.oid, first.oid[:7], "v1", "next/step"):
        assert api.model_info("me/m", revision=revision).sha == first.oid
        # A folder of its own: the cache of a branch's commits would answer otherwise.
        path = hf_hub_download("me/m", "README.md", revision=revision, cache_dir=tmp_path / revision[-4:])
        assert Path(path).read_bytes() == b"# one\n"
    folder = Path(snapshot_download("me/m"))
    assert folder.name == second.oid
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == repo.files

    refs = api.list_repo_refs("me/m")
    assert {(ref.name, ref.target_commit) for ref in refs.branches} == {("main", second.oid), ("next/step", first.oid)}
    assert [(ref.ref, ref.target_commit) for ref in refs.tags] == [("refs/tags/v1", first.oid)]
    with pytest.raises(HfHubHTTPError) as twice:
        api.create_branch("me/m", branch="next/step")
    assert twice.value.response.status_code == 409
    api.create_commit("me/m", add(new__txt=b"x"), commit_message="elsewhere", revision="next/step")
    assert "new.txt" in repo.at("next/step").files and "new.txt" not in repo.files
    api.delete_branch("me/m", branch="next/step")
    api.delete_tag("me/m", tag="v1")
    for revision in ("next/step", "v1", "0" * 40):
        with pytest.raises(RevisionNotFoundError):
            api.model_info("me/m", revision=revision)
        with pytest.raises(RevisionNotFoundError):
            hf_hub_download("me/m", "README.md", revision=revision)
    with pytest.raises(RevisionNotFoundError):
        api.create_commit("me/m", add(new__txt=b"x"), commit_message="nowhere", revision="next/step")

    api.update_repo_settings("me/m", private=False)
    assert not repo.private
    api.delete_repo("me/m")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("me/m")


def test_facts_of_files(hub: HubServer, api: HfApi) -> None:
    readme = b"---\nlibrary_name: transformers\npipeline_tag: image-classification\ntags: [fer]\n---\n# m\n"
    hub.commit("model", "me/m", {"README.md": readme, "a/b/empty.bin": b""})
    sha = hub.commit("model", "me/m", {"a/w.bin": WEIGHTS})
    info = api.model_info("me/m", files_metadata=True)
    assert (info.pipeline_tag, vars(info)["library_name"]) == ("image-classification", "transformers")
    assert info.tags == ["fer"]
    siblings = {file.rfilename: file for file in info.siblings}
    oid = hashlib.sha256(WEIGHTS).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 10240\n"
    for path, data in (("README.md", readme), ("a/b/empty.bin", b""), ("a/w.bin", pointer.encode())):
        git = subprocess.run(["git", "hash-object", "--stdin"], input=data, capture_output=True, check=True)
        assert siblings[path].blob_id == git.stdout.decode().strip()
    assert siblings["a/w.bin"].lfs.sha256 == oid and siblings["a/w.bin"].size == 10240
    assert siblings["README.md"].lfs is None and siblings["a/b/empty.bin"].lfs is None

    assert {e.path for e in api.list_repo_tree("me/m")} == {"README.md", "a"}
    assert {e.path for e in api.list_repo_tree("me/m", "a")} == {"a/b", "a/w.bin"}
    everything = list(api.list_repo_tree("me/m", recursive=True, expand=True))
    assert {e.path for e in everything} == {"README.md", "a", "a/b", "a/b/empty.bin", "a/w.bin"}
    assert {e.path: e.last_commit.oid == sha for e in everything}["a/w.bin"]
    assert not {e.path: e.last_commit.oid == sha for e in everything}["README.md"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("me/m", "b"))
    infos = api.get_paths_info("me/m", ["a/w.bin", "a/b", "no"])
    assert {i.path: getattr(i, "size", None) for i in infos} == {"a/w.bin": 10240, "a/b": None}
    assert api.file_exists("me/m", "README.md") and not api.file_exists("me/m", "no")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("me/m", "no")
    files = HfFileSystem(endpoint=hub.url)
    assert sorted(files.glob("me/m/**/*.bin")) == ["me/m/a/b/empty.bin", "me/m/a/w.bin"]
    assert files.cat_file("me/m/a/w.bin", start=100, end=400) == WEIGHTS[100:400]


def test_ranges(hub: HubServer) -> None:
    sha = hub.commit("dataset", "me/d", {"a b.txt": b"0123456789"})
    url = f"{hub.url}/datasets/me/d/resolve/{sha}/a%20b.txt"
    for wanted, content, place in (
        ("bytes=2-4", b"234", "bytes 2-4/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
    ):
        status, body, headers = raw(url, Range=wanted)
        assert (status, body, headers["Content-Range"]) == (206, content, place)
    assert raw(url, Range="bytes=10-")[0] == 416
    status, body, headers = raw(url, method="HEAD")
    assert (status, body, headers["Content-Length"], headers["X-Repo-Commit"]) == (200, b"", "10", sha)


def test_names_that_lead_out_are_listed_as_they_are(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    names = ["../x", "a/../../y", "/etc/z", "..\\w", "good.txt"]
    hub.commit("model", "evil/m", dict.fromkeys(names, b"x"))
    assert set(api.list_repo_files("evil/m")) == set(names)
    assert set(names) <= {e.path for e in api.list_repo_tree("evil/m", recursive=True)}
    path = "/api/models/me/m/commit/main"
    api.create_repo("me/m")
    for name in ("../x", "a/../x", "/x", ".git/config"):  # nobody can commit them, though
        operation = {"key": "file", "value": {"path": name, "content": "eA==", "encoding": "base64"}}
        assert raw(hub.url + path, commit_lines(operation))[0] == 400
    assert not hub.repos["model", "me/m"].files


# --- tokens -------------------------------------------------------------------------------------------

ACTIONS: dict[str, Callable[[HfApi, str], Any]] = {
    "see": lambda api, name: api.model_info(name),
    "load": lambda api, name: api.hf_hub_download(name, "f.txt"),
    "commit": lambda api, name: api.create_commit(name, add(g__txt=b"g"), commit_message="c"),
    "request": lambda api, name: api.create_commit(name, add(g__txt=b"g"), commit_message="c", create_pr=True),
    "branch": lambda api, name: api.create_branch(name, branch="b"),
    "create": lambda api, name: api.create_repo(name + "-new"),
    "whoami": lambda api, name: api.whoami(),
}
WRITES = ("commit", "request", "branch", "create")
# How actions fail, by token and repository: with this status, or with this error of the client. Others succeed.
MISSING = dict.fromkeys(("see", "load", "commit", "request", "branch"), RepositoryNotFoundError)
NO_TOKEN = {"create": 401, "whoami": ValueError}


@pytest.mark.parametrize(
    ("token", "name", "failing"),
    [
        ("hf_nobody", "me/public", {}),
        ("hf_nobody", "me/private", {}),
        ("hf_nobody", "lab/private", {}),
        ("hf_nobody", "you/public", dict.fromkeys(("commit", "branch", "create"), 403)),
        ("hf_nobody", "you/private", MISSING | {"create": 403}),
        ("hf_nobody", "me/none", MISSING),
        ("hf_reader", "me/public", dict.fromkeys(WRITES, 403)),
        ("hf_reader", "me/private", dict.fromkeys(WRITES, 403)),
        (False, "me/public", dict.fromkeys(("commit", "request", "branch"), RepositoryNotFoundError) | NO_TOKEN),
        (False, "me/private", MISSING | NO_TOKEN),
        ("hf_unknown", "me/public", dict.fromkeys(ACTIONS, 401)),
    ],
)
def test_tokens(hub: HubServer, api: HfApi, token: str | bool, name: str, failing: dict[str, Any]) -> None:
    hub.tokens["hf_reader"], hub.orgs = "read", ["lab"]
    for other in ("me/public", "me/private", "lab/private", "you/public", "you/private"):
        hub.commit("model", other, {"f.txt": b"f"})
        hub.repos["model", other].private = other.endswith("private")
    api = HfApi(endpoint=hub.url, token=token)
    for action, act in ACTIONS.items():
        before = {key: repo.sha for key, repo in hub.repos.items()}
        match failing.get(action):
            case None:
                act(api, name)
                continue
            case int() as status:
                with pytest.raises(HfHubHTTPError) as error:
                    act(api, name)
                assert error.value.response.status_code == status, action
                assert not isinstance(error.value, RepositoryNotFoundError), action
            case error_type:
                with pytest.raises(error_type):
                    act(api, name)
        assert {key: repo.sha for key, repo in hub.repos.items()} == before, action


def test_gated(hub: HubServer, api: HfApi) -> None:
    hub.commit("model", "you/gated", {"f.txt": b"f"})
    hub.repos["model", "you/gated"].gated = True
    assert api.model_info("you/gated").gated == "auto"
    with pytest.raises(GatedRepoError):
        hf_hub_download("you/gated", "f.txt")


def test_who_is_asking(hub: HubServer, api: HfApi) -> None:
    hub.orgs, hub.tokens["hf_reader"] = ["lab"], "read"
    answer = api.whoami()
    assert answer["name"] == "me" and [org["name"] for org in answer["orgs"]] == ["lab"]
    assert answer["auth"]["accessToken"]["role"] == "write"
    assert api.whoami(token="hf_reader")["auth"]["accessToken"]["role"] == "read"


# --- commits ------------------------------------------------------------------------------------------


def test_nothing_is_uploaded_that_is_there(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    files = {"README.md": b"# m\n", "model.safetensors": WEIGHTS, "config.json": b"{}", "empty.bin": b""}
    for name, data in files.items():
        (tmp_path / "out" / name).write_bytes(data)
    api.create_repo("me/m")
    api.upload_folder(repo_id="me/m", folder_path=tmp_path / "out")
    repo, oid = hub.repos["model", "me/m"], hashlib.sha256(WEIGHTS).hexdigest()
    assert repo.files == files and len(repo.commits) == 1
    assert sorted(hub.uploads) == sorted([("README.md", 4), (oid, len(WEIGHTS)), ("config.json", 2), ("empty.bin", 0)])
    hub.uploads.clear()
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.upload_folder(repo_id="me/m", folder_path=tmp_path / "out")
    assert not hub.uploads and len(repo.commits) == 1
    (tmp_path / "out" / "config.json").write_bytes(b"{ }")
    (tmp_path / "out" / "copy.safetensors").write_bytes(WEIGHTS)
    api.upload_folder(repo_id="me/m", folder_path=tmp_path / "out")
    assert hub.uploads == [("config.json", 3)] and len(repo.commits) == 2 and repo.files["copy.safetensors"] == WEIGHTS


def test_deleting_and_copying(hub: HubServer, api: HfApi) -> None:
    hub.commit("dataset", "me/d", {"a/1.txt": b"1", "a/2.parquet": WEIGHTS, "ab.txt": b"ab", "b.txt": b"b"})
    repo = hub.repos["dataset", "me/d"]
    operations = [
        CommitOperationDelete("b.txt"),
        CommitOperationCopy("a/1.txt", "c/1.txt"),
        CommitOperationCopy("a/2.parquet", "c/2.parquet"),
        *add(new__txt=b"new"),
    ]
    api.create_commit("me/d", operations, commit_message="both", repo_type="dataset")
    a = {"a/1.txt": b"1", "a/2.parquet": WEIGHTS}
    c = {"c/1.txt": b"1", "c/2.parquet": WEIGHTS, "ab.txt": b"ab", "new.txt": b"new"}
    assert repo.files == a | c and repo.commits[-1] == "both"
    api.delete_folder("a", "me/d", repo_type="dataset")
    assert repo.files == c
    for path in ("a/", "no.txt"):
        with pytest.raises(EntryNotFoundError, match="doesn't exist"):
            operations = [*add(x__txt=b"x"), CommitOperationDelete(path)]
            api.create_commit("me/d", operations, commit_message="no", repo_type="dataset")
    assert repo.files == c


def test_a_commit_counts_whole_or_not_at_all(hub: HubServer, api: HfApi) -> None:
    api.create_repo("me/m")
    repo = hub.repos["model", "me/m"]
    file = {"key": "file", "value": {"path": "a.txt", "content": "eA==", "encoding": "base64"}}
    weights = {"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": "0" * 64, "size": 9}}
    url = f"{hub.url}/api/models/me/m/commit/main"
    status, body, _ = raw(url, commit_lines(file, weights))
    assert status == 400 and b"w.bin" in body
    assert not repo.files and not repo.commits and not hub.uploads
    assert raw(f"{hub.url}/lfs/{'0' * 64}", b"other content", "PUT")[0] == 400 and not hub.objects
    assert raw(url, gzip.compress(commit_lines(file)), Content_Encoding="gzip")[0] == 200
    assert repo.files == {"a.txt": b"x"}


def test_chunked_content(hub: HubServer, api: HfApi) -> None:
    """As a client sends what it does not know the length of; the connection serves the next request, too."""
    api.create_repo("me/m")
    file = {"key": "file", "value": {"path": "a.txt", "content": "eA==", "encoding": "base64"}}
    pieces = (commit_lines(file)[i : i + 7] for i in range(0, 400, 7))
    session, headers = _session(), {"Authorization": "Bearer hf_nobody"}
    url = f"{hub.url}/api/models/me/m"
    assert session.post(f"{url}/commit/main", content=(p for p in pieces if p), headers=headers).status_code == 200
    assert session.get(url, headers=headers).json()["sha"] == hub.repos["model", "me/m"].sha


def _session() -> Any:
    from huggingface_hub import get_session

    return get_session()


def test_pull_requests(hub: HubServer, api: HfApi) -> None:
    old = hub.commit("model", "you/m", {"a.txt": b"1"})
    head = hub.commit("model", "you/m", {"a.txt": b"2"})
    repo = hub.repos["model", "you/m"]
    made = api.create_commit("you/m", add(b__txt=b"b"), commit_message="ask", create_pr=True)
    assert (made.pr_num, made.pr_revision, made.pr_url) == (1, "refs/pr/1", f"{hub.url}/you/m/discussions/1")
    assert repo.sha == head and repo.at("refs/pr/1").files == {"a.txt": b"2", "b.txt": b"b"}
    from_old = api.create_commit("you/m", add(b__txt=b"b"), commit_message="a", create_pr=True, parent_commit=old)
    assert from_old.pr_num == 2 and repo.at("refs/pr/2").files["a.txt"] == b"1"
    more = api.create_commit("you/m", add(c__txt=b"c"), commit_message="more", revision="refs/pr/1")
    refs = api.list_repo_refs("you/m", include_pull_requests=True)
    assert next((ref.ref, ref.target_commit) for ref in refs.pull_requests) == ("refs/pr/1", more.oid)
    assert Path(hf_hub_download("you/m", "c.txt", revision="refs/pr/1")).read_bytes() == b"c"


def test_conflicts(hub: HubServer, api: HfApi) -> None:
    head = hub.commit("model", "me/m", {"a.txt": b"1"})
    repo = hub.repos["model", "me/m"]
    other = hub.before("POST", "/commit/", lambda: hub.commit("model", "me/m", {"b.txt": b"of another"}))
    with pytest.raises(HfHubHTTPError) as error:
        api.create_commit("me/m", add(a__txt=b"2"), commit_message="late", parent_commit=head)
    assert error.value.response.status_code == 412 and "A commit has happened since" in str(error.value)
    assert repo.files == {"a.txt": b"1", "b.txt": b"of another"} and other.times == 0
    api.create_commit("me/m", add(a__txt=b"2"), commit_message="read again", parent_commit=repo.sha)
    api.create_commit("me/m", add(a__txt=b"3"), commit_message="without asking")
    assert repo.files == {"a.txt": b"3", "b.txt": b"of another"}


def test_what_the_hub_refuses_of_a_card(hub: HubServer, api: HfApi) -> None:
    api.create_repo("me/m")
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        api.create_commit("me/m", add(README__md=b"---\na: [\n---\n"), commit_message="card")
    assert not hub.repos["model", "me/m"].files


def test_gitignore(hub: HubServer, api: HfApi) -> None:
    hub.commit("model", "me/m", {".gitignore": b"# not these\n*.log\nruns/\n"})
    api.create_commit("me/m", add(a__log=b"1", runs___b__txt=b"2", c__txt=b"3"), commit_message="some")
    assert set(hub.repos["model", "me/m"].files) == {".gitignore", "c.txt"}


def test_first_files(hub: HubServer, api: HfApi) -> None:
    hub.first_files = {".gitattributes": b"*.bin filter=lfs\n"}
    api.create_repo("me/s", repo_type="space", space_sdk="gradio")
    assert hub.repos["space", "me/s"].files == hub.first_files and hub.repos["space", "me/s"].commits == []
    assert api.space_info("me/s").sdk == "gradio"


# --- faults -------------------------------------------------------------------------------------------


def test_answers_that_fail(hub: HubServer, api: HfApi) -> None:
    api.create_repo("me/m")
    twice = hub.fail("POST", "/preupload/", times=2)
    busy = hub.fail("POST", "lfs/objects/batch", status=429, headers={"Retry-After": "0"}, body="slow down")
    api.create_commit("me/m", add(w__bin=WEIGHTS), commit_message="c")
    assert hub.repos["model", "me/m"].files == {"w.bin": WEIGHTS} and twice.times == busy.times == 0
    assert sum("/preupload/" in call for call in hub.calls) == 3 and sum("batch" in call for call in hub.calls) == 2
    hub.fail("POST", "/commit/", status=409, body={"error": "somebody else is at it"}, skip=1)
    api.create_commit("me/m", add(a__txt=b"1"), commit_message="passes")
    with pytest.raises(HfHubHTTPError, match="somebody else is at it"):
        api.create_commit("me/m", add(a__txt=b"2"), commit_message="fails")
    assert hub.repos["model", "me/m"].commits == ["c", "passes"]


@pytest.mark.parametrize("size", [10_000, 3_000_000])  # what the socket's buffers hold at once, and what they do not
@pytest.mark.parametrize("after", [0, 1000])
def test_uploads_cut_in_the_middle(hub: HubServer, api: HfApi, tmp_path: Path, size: int, after: int) -> None:
    data = os.urandom(size)
    (tmp_path / "w.bin").write_bytes(data)
    api.create_repo("me/m")
    cut = hub.cut("PUT", "/lfs/", after=after, times=2)
    api.upload_file(path_or_fileobj=tmp_path / "w.bin", path_in_repo="w.bin", repo_id="me/m")
    assert cut.times == 0 and sum(call.startswith("PUT") for call in hub.calls) == 3
    assert hub.repos["model", "me/m"].files == {"w.bin": data} and [size for _, size in hub.uploads] == [size]
    hub.cut("POST", "/commit/", after=10)
    with pytest.raises(Exception, match=r"disconnected|reset|closed|Broken pipe"):
        api.create_commit("me/m", add(a__txt=b"1"), commit_message="never arrives")
    assert hub.repos["model", "me/m"].files == {"w.bin": data}


def test_answers_cut_in_the_middle(hub: HubServer, api: HfApi) -> None:
    data = os.urandom(200_000)
    hub.commit("model", "me/m", {"w.bin": data})
    cut = hub.cut_answer("GET", "/resolve/", after=150_000)
    assert Path(hf_hub_download("me/m", "w.bin")).read_bytes() == data  # the client asks for the rest
    assert cut.times == 0 and sum(call.startswith("GET") for call in hub.calls) == 2
    # The commit is made, and whoever made it does not know.
    hub.cut_answer("POST", "/commit/", after=5)
    with pytest.raises(Exception, match=r"incomplete|closed|peer"):
        api.create_commit("me/m", add(a__txt=b"1"), commit_message="made")
    assert hub.repos["model", "me/m"].commits[-1] == "made"


def test_a_bug_in_a_test_does_not_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def bug() -> None:
        raise KeyError("of the test")

    with pytest.raises(AssertionError, match="of the test"), HubServer() as hub:
        hub.before("GET", "/whoami", bug)
        with pytest.raises(HfHubHTTPError, match="501"):
            hub.connect(monkeypatch, tmp_path).whoami()


# --- datasets, evaluate and transformers --------------------------------------------------------------

METRIC = b"""
import datasets
import evaluate
from .helper import count


class Same(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"same": count(predictions, references)}
"""
HELPER = b"def count(a, b):\n    return sum(x == y for x, y in zip(a, b))\n"
LOAD = """
import sys
from datasets import load_dataset
import evaluate
from transformers import AutoConfig

print(load_dataset("me/d", revision=sys.argv[1])["train"]["x"][:], load_dataset("me/d", split="train")["x"][:])
print(evaluate.load("me/same", module_type="metric").compute(predictions=[1, 2, 3], references=[1, 0, 3]))
print(AutoConfig.from_pretrained("me/m").hidden_size)
"""


def parquet(*values: int) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": list(values)}), buffer)
    return buffer.getvalue()


def test_other_libraries_load_from_it(hub: HubServer, tmp_path: Path) -> None:
    first = hub.commit("dataset", "me/d", {"data/train-00000-of-00001.parquet": parquet(1, 2)})
    hub.commit("dataset", "me/d", {"data/train-00000-of-00001.parquet": parquet(3)})
    hub.commit("space", "me/same", {"same.py": METRIC, "helper.py": HELPER})
    hub.commit("model", "me/m", {"config.json": b'{"model_type": "bert", "hidden_size": 24}'})
    for repo in hub.repos.values():
        repo.private = True
    done = subprocess.run(
        [sys.executable, "-c", LOAD, first],
        capture_output=True,
        text=True,
        env={**os.environ, **hub.environment(tmp_path / "home")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[1, 2] [3]", "{'same': 2}", "24"]
    assert any("/spaces/me/same/resolve/main/helper.py" in call for call in hub.calls)


def test_repositories_can_be_put_there(hub: HubServer, api: HfApi) -> None:
    hub.repos["model", "me/m"] = Repo(private=True, files={"a.txt": b"a"})
    assert api.model_info("me/m").private and Path(hf_hub_download("me/m", "a.txt")).read_bytes() == b"a"
