"""Scores by the authors' rules, against what their code computed."""

import sys
import types

import numpy
import pytest
from conftest import GOLDEN, golden
from PIL import Image

import owl2
import owl2.pyiqa

# As tests/golden-family/manifest.json says.
SCORE5, SCORE1, LOGITS, PROBABILITIES, DEVIATION = 1e-3, 2.5e-4, 2e-3, 5e-4, 1e-3


def path(name):
    return str(GOLDEN / "images" / name)


def near(tolerance, value):
    return pytest.approx(value, abs=tolerance)


def test_q_align(one_align):
    model = owl2.Model(one_align)
    # Named by the converter, from the checkpoint's own name.
    assert model.score_rule == "q-align"
    vectors = golden("score/qalign.json")
    names = list(vectors["pictures"])
    n_checked = 0
    for task in ("quality", "aesthetics", "aesthetic"):
        scores = model.score([path(name) for name in names], task=task)
        for name, score in zip(names, scores):
            wanted = vectors["pictures"][name]["tasks"][task]
            assert list(score.logits.values()) == near(LOGITS, wanted["logits"])
            assert list(score.probabilities.values()) == near(PROBABILITIES, wanted["probs"])
            assert float(score) == near(SCORE5, wanted["score5"])
            assert score.unit == near(SCORE1, wanted["score1"])
            assert score.deviation == near(DEVIATION, wanted["std"])
            n_checked += 1
    assert n_checked == 27


def test_the_hubs_scorer(one_align):
    model = owl2.OneAlign(one_align)
    vectors = golden("score/qalign.json")
    names = list(vectors["pictures"])
    images = [Image.open(path(name)) for name in names]
    for task in ("quality", "aesthetics"):
        wanted = [vectors["pictures"][name]["tasks"][task] for name in names]
        scores = model.score(images, task_=task, input_="image")
        assert scores.tolist() == near(SCORE5, [w["score5"] for w in wanted])
        both = model.score(images, task_=task, return_dict=True)
        assert both["scores"].tolist() == scores.tolist()
        assert both["logits"] == near(LOGITS, numpy.array([w["logits"] for w in wanted]))
    n_checked = 0
    for video in vectors["video"]:
        frames = [Image.open(path(name)) for name in video["frames"]]
        score = model.score([frames], task_=video["task"], input_="video")
        assert score.item() == near(SCORE5, video["score5"])
        n_checked += 1
    assert n_checked == 7


def test_the_hubs_scorer_refuses_what_it_does_not_take(one_align):
    model = owl2.OneAlign(one_align)
    image = Image.open(path("wide.png"))
    for images, options in [
        ([[image]], {}),
        ([image], {"input_": "video"}),
        ([image], {"input_": "sound"}),
        ([image], {"image_tensor": 1}),
    ]:
        with pytest.raises(ValueError):
            model.score(images, **options)


def test_deqa(deqa):
    model = owl2.Model(deqa)
    assert model.score_rule == "deqa"
    pictures = golden("score/deqa.json")["pictures"]
    scores = model.score([path(name) for name in pictures])
    for score, wanted in zip(scores, pictures.values()):
        assert score.score == near(SCORE5, wanted["mean"])
        assert score.deviation == near(DEVIATION, wanted["std"])
    assert len(scores) == 9


def test_q_instruct(one_align):
    model = owl2.Model(one_align)
    pictures = golden("score/q_instruct.json")["pictures"]
    for name, wanted in pictures.items():
        for boost, key in ((False, "score_boost_off"), (True, "score_boost_on")):
            score = model.score(path(name), rule="q-instruct", boost=boost)
            assert score.score == near(SCORE1, wanted[key])


def test_compare2score(one_align):
    model = owl2.Model(one_align)
    vectors = golden("score/compare2score.json")
    anchors = [path(name) for name in vectors["anchors"]]
    names = list(vectors["pictures"])
    pictures = [path(name) for name in names]
    scores = model.score(pictures, rule="compare2score", anchors=anchors)
    for name, score in zip(names, scores):
        wanted = vectors["pictures"][name]
        assert score.preferences == near(1e-4, wanted["preference"])
        assert score.score == near(0.02, wanted["score_exact"])
        assert score.score == near(0.4, wanted["score_hub_adam100"])


def tensor(name):
    """A picture as pyiqa hands it over."""
    image = Image.open(path(name)).convert("RGB")
    return numpy.asarray(image, dtype=numpy.float32).transpose(2, 0, 1)[None] / 255


def test_the_metric(one_align):
    metric = owl2.pyiqa.Metric(one_align)
    pictures = golden("score/qalign.json")["pictures"]
    for name, wanted in pictures.items():
        for task in ("quality", "aesthetic"):
            score = metric(tensor(name), task_=task)
            assert score.tolist() == near(SCORE5, [wanted["tasks"][task]["score5"]])
    same = numpy.concatenate([tensor("wide.png")] * 6)
    assert metric(same).tolist() == metric(tensor("wide.png")).tolist() * 6
    with pytest.raises(NotImplementedError):
        metric(same, input_="video")
    with pytest.raises(TypeError):
        metric(same[0])


class Tensor:
    """What the metric needs of torch's tensor."""

    device = "cpu"

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        return self.array


class Registry(dict):
    def register(self, of):
        self[of.__name__] = of


def test_the_metric_is_registered_with_pyiqa(one_align, monkeypatch):
    # torch and pyiqa take gigabytes; these have the names of theirs that are used.
    torch, pyiqa = types.ModuleType("torch"), types.ModuleType("pyiqa")
    torch.nn = types.SimpleNamespace(Module=object)
    torch.as_tensor = lambda values, device: (values, device)
    configs = types.ModuleType("pyiqa.default_model_configs")
    configs.DEFAULT_CONFIGS = {}
    registry = types.ModuleType("pyiqa.utils.registry")
    registry.ARCH_REGISTRY = Registry()
    for module in (torch, pyiqa, configs, registry, types.ModuleType("pyiqa.utils")):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    owl2.pyiqa.register()
    owl2.pyiqa.register("photos")
    assert set(configs.DEFAULT_CONFIGS) == {"owl2", "photos"}
    options = configs.DEFAULT_CONFIGS["photos"]
    assert options["metric_mode"] == "NR"
    metric = registry.ARCH_REGISTRY[options["metric_opts"]["type"]](path=one_align)
    scores, device = metric.forward(Tensor(tensor("wide.png")))
    wanted = golden("score/qalign.json")["pictures"]["wide.png"]["tasks"]["quality"]
    assert scores.tolist() == near(SCORE5, [wanted["score5"]]) and device == "cpu"


def test_importing_needs_neither_torch_nor_pyiqa():
    assert "torch" not in sys.modules and "pyiqa" not in sys.modules
