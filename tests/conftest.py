"""What every test stands on: no network, and one thread, which is the fastest for models this small."""

import os
from collections.abc import Callable

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import hypothesis
import pytest
import tiny

from headstart.cli.app import app, main

# A busy machine is no fault of what is tested.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What frozen layers say is kept among the tests, not in the user's home."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["HEADSTART_CACHE"] = str(folder)
    os.environ.pop("HEADSTART_MODELS", None)  # they lie in the cache, too: none is there
    return folder


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT."""
    return tiny.backbone(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with its language-model head, which is its embedding, too."""
    return tiny.backbone(tmp_path_factory.mktemp("llama") / "model", "llama", writes=True, tie_word_embeddings=True)


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 made-up reviews as a CSV file."""
    return tiny.write_csv(tmp_path_factory.mktemp("data") / "reviews.csv", tiny.rows(300))


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, backbone: Path, reviews: Path) -> Path:
    """A finished run: a tiny model fitted to the reviews."""
    import headstart

    out = tmp_path_factory.mktemp("runs") / "reviews"
    headstart.fit(tiny.spec(reviews, backbone), out=out)
    return out


@pytest.fixture(scope="session")
def other_run(tmp_path_factory: pytest.TempPathFactory, backbone: Path, reviews: Path) -> Path:
    """Another finished run on the same rows, from the same backbone."""
    import headstart

    out = tmp_path_factory.mktemp("runs") / "other"
    headstart.fit(tiny.spec(reviews, backbone, method="lora"), out=out)
    return out


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """The command line in this process: (stdout, stderr) of a verb that ends with `rc`."""

    def run(*arguments: object, rc: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as raised:
            main(lambda: app([str(argument) for argument in arguments]))
        captured = capsys.readouterr()
        assert (raised.value.code or 0) == rc, captured.err
        return captured.out, captured.err

    return run
