"""Questions, answers and settings."""

import json
import os
import pickle
import threading

import pytest

import owl2

CAT = "assets/cat.png"
CAPTION = "A cat on a blue background."


def test_answers_tell_how_they_came_about(model):
    answer = model.ask("Describe the image.", [CAT])
    assert str(answer) == answer.text == CAPTION
    assert answer.stop == "end_of_text" and answer.is_fulfilled
    assert answer.n_image == 17 and answer.n_prompt > 17
    # Pieces end with </s>, which is no text.
    assert model.detokenize(answer.ids) == CAPTION
    assert set(answer.seconds) == {
        "decode_image",
        "preprocess",
        "vit",
        "abstractor",
        "prefill",
        "decode",
    }
    assert answer.warnings == []


def test_pictures_stand_where_the_prompt_says(model):
    with pytest.raises(owl2.InputError):
        model.ask("<|image|> or <|image|>?", [CAT])
    two = model.ask("<|image|><|image|>Describe the second image.", [CAT, CAT])
    assert two.n_image == 34
    assert model.ask("Hello").n_image == 0


def test_settings_reach_the_model(model):
    def ask(**settings):
        return model.ask("Describe the image.", CAT, **settings)

    assert ask(max_tokens=1).stop == "max_tokens"
    assert ask(stop=" on").text == ask(stop=["x", " on"]).text == "A cat"
    wild = dict(temperature=3.0, max_tokens=20)
    assert ask(seed=1, **wild) != ask(seed=2, **wild)
    assert ask(seed=1, **wild).text == ask(seed=1, **wild).text
    # The likeliest token alone is left.
    assert ask(top_k=1, **wild).text == ask(top_p=1e-9, **wild).text == CAPTION
    with pytest.raises(owl2.CapacityError):
        ask(context=20)
    assert ask(context=60, max_tokens=20).text == CAPTION
    assert ask(system="You are a parrot.").n_prompt > ask().n_prompt
    assert ask(choices=["A dog.", "A cat."]).text == "A cat."
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 2]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    for given in (schema, json.dumps(schema)):
        answer = ask(schema=given, max_tokens=30)
        assert answer.is_fulfilled and json.loads(answer.text)["n"] in (1, 2)
    assert not ask(schema=schema, max_tokens=2).is_fulfilled


def test_aspect_changes_what_is_seen(model):
    wide = "tests/golden-family/images/wide.png"
    seen = {
        aspect: model.embed_image(wide, aspect=aspect).tobytes()
        for aspect in ("squash", "pad", "crop")
    }
    assert len(set(seen.values())) == 3


def test_a_stream_has_the_text_of_the_answer(model):
    stream = model.ask("Describe the image.", CAT, stream=True)
    assert stream.answer is None
    pieces = list(stream)
    assert len(pieces) > 1 and "".join(pieces) == CAPTION
    assert stream.answer.text == CAPTION
    # It stays at its end.
    assert list(stream) == []


def test_a_stream_can_be_left(model):
    wild = dict(temperature=100.0, max_tokens=900)
    with model.ask("Describe the image.", CAT, stream=True, **wild) as stream:
        next(stream)
    rest = list(stream)
    assert stream.answer.stop == "cancelled" or len(rest) > 0
    stream = model.ask("Describe the image.", CAT, stream=True, **wild)
    next(stream)
    del stream
    # The model is free again.
    assert model.ask("Describe the image.", CAT).text == CAPTION


def test_errors_of_a_stream_are_raised_while_it_is_read(model):
    stream = model.ask("Describe the image.", "missing.png", stream=True)
    with pytest.raises(FileNotFoundError):
        next(stream)
    # As of any iterator, there is nothing after that.
    assert list(stream) == [] and stream.answer is None


def test_tokens(model):
    ids = model.tokenize("a cat")
    assert ids[0] == 1 and model.detokenize(ids) == "a cat"
    assert model.detokenize(model.tokenize("é 猫")) == "é 猫"
    # What people write makes no control token.
    assert model.tokenize("</s>").count(2) == 0
    assert model.tokenize("</s>", special=True).count(2) == 1
    assert "</s>" in model.detokenize([2], special=True)
    assert model.detokenize([2]) == ""
    for ids in ([-1], [10**6]):
        with pytest.raises(owl2.UsageError):
            model.detokenize(ids)


def test_word_logits(model):
    words = ["yes", "no"]
    likely = model.word_logits("Is there a cat?", words, CAT)
    assert [word.word for word in likely] == words
    assert sum(word.probability for word in likely) == pytest.approx(1)
    assert likely[0].logit > likely[1].logit and likely[0].log_probability < 0
    assert model.detokenize(likely[0].ids) == "yes"
    raw = model.word_logits("USER: <|image|>Is there a cat? ASSISTANT:", words, CAT, raw=True)
    assert raw[0].probability > 0.5
    with pytest.raises(owl2.UsageError):
        model.word_logits("Is there a cat?", [])


def test_threads_may_ask_at_once(model):
    texts = []

    def ask():
        texts.append(model.ask("Describe the image.", CAT).text)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [CAPTION] * 8


def test_a_model_is_opened_again_where_it_is_unpickled():
    model = pickle.loads(pickle.dumps(owl2.Model(threads=1)))
    assert model.threads == 1 and model.path is None
    assert model.ask("Describe the image.", CAT).text == CAPTION


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_to_open_the_model_itself(model):
    child = os.fork()
    if child == 0:
        try:
            model.ask("Describe the image.", CAT)
        except owl2.UsageError as error:
            os._exit(0 if "fork" in str(error) else 1)
        except BaseException:
            os._exit(2)
        os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
