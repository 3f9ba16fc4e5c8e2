"""Failures are exceptions of their kind."""

import copy
import pickle

import pytest

import owl2

CAT = "assets/cat.png"


def test_files():
    with pytest.raises(FileNotFoundError) as caught:
        owl2.Model("missing.gguf")
    error = caught.value
    assert isinstance(error, owl2.FileError) and isinstance(error, owl2.Error)
    assert (error.kind, error.file) == ("io", "missing.gguf")
    assert str(error).startswith("missing.gguf: cannot open")
    with pytest.raises(owl2.ModelError) as caught:
        owl2.Model(CAT)
    assert isinstance(caught.value, ValueError) and caught.value.file == CAT


def test_pictures(model, tmp_path):
    with pytest.raises(FileNotFoundError):
        model.ask("What?", "missing.png")
    with pytest.raises(owl2.InputError):
        model.ask("What?", b"no picture")
    with pytest.raises(owl2.Error):
        model.ask("What?", tmp_path)
    for wrong in (3, None, object()):
        with pytest.raises(TypeError):
            model.ask("What?", [wrong])


@pytest.mark.parametrize(
    "settings, parameter",
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"choices": []}, "choices"),
        ({"choices": ["a"], "schema": "{}"}, "schema"),
    ],
)
def test_settings(model, settings, parameter):
    with pytest.raises(ValueError) as caught:
        model.ask("What?", **settings)
    assert isinstance(caught.value, owl2.UsageError)
    assert caught.value.parameter == parameter


def test_types(model):
    with pytest.raises(TypeError):
        model.ask("What?", colour="red")
    with pytest.raises(TypeError):
        model.ask("What?", top_p="much")
    with pytest.raises(TypeError):
        model.ask(3)


def test_capacity(model):
    with pytest.raises(MemoryError) as caught:
        model.ask("What?", max_tokens=10**9)
    assert isinstance(caught.value, owl2.CapacityError)


def test_threads():
    for threads in (0, -1, 10**6):
        with pytest.raises(owl2.UsageError) as caught:
            owl2.Model(threads=threads)
        assert caught.value.parameter == "threads"


def test_scores(model):
    # The file names its rule.
    assert model.score(CAT) == model.score(CAT, rule="q-align")
    with pytest.raises(owl2.UsageError, match="rule"):
        model.score(CAT, rule="none")
    for options in (
        {"rule": "none"},
        {"task": "beauty"},
        {"rule": "q-instruct", "task": "aesthetics"},
        {"boost": True},
        {"rule": "compare2score"},
        {"rule": "compare2score", "anchors": [CAT]},
        {"prompts": "mine"},
    ):
        with pytest.raises(ValueError):
            model.score(CAT, **{"rule": "q-align", **options})
    with pytest.raises(ValueError):
        model.score(CAT, rule="q-align", errors="ignore")
    with pytest.raises(owl2.InputError):
        model.score([[]], rule="q-align")


def test_a_bad_picture_can_leave_the_others_their_scores(model):
    pictures = [CAT, "missing.png", b"no picture", CAT]
    first, missing, unusable, last = model.score(pictures, rule="q-align", errors="return")
    assert first == last and isinstance(first, owl2.Score)
    assert isinstance(missing, FileNotFoundError) and isinstance(unusable, owl2.InputError)
    with pytest.raises(FileNotFoundError):
        model.score(pictures, rule="q-align")
    assert model.score([], rule="q-align") == []


def test_exceptions_can_be_sent_to_other_processes(model):
    for pictures in ("missing.png", b"no picture"):
        with pytest.raises(owl2.Error) as caught:
            model.ask("What?", pictures)
        for again in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
            assert type(again) is type(caught.value) and str(again) == str(caught.value)
            assert (again.kind, again.file) == (caught.value.kind, caught.value.file)
