"""Asks a running server through the clients that people have: clients.py http://127.0.0.1:PORT ASSETS"""

import base64
import json
import os
import pathlib
import sys
import typing

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the web for prices

import litellm
import ollama
import openai
import pydantic

URL, ASSETS = sys.argv[1], pathlib.Path(sys.argv[2])
QUESTION = "What is this?"
CAT = base64.b64encode((ASSETS / "cat.png").read_bytes()).decode()
CONTENT = [
    {"type": "text", "text": QUESTION},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64," + CAT}},
]
MESSAGES = [{"role": "user", "content": CONTENT}]


class Animal(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    animal: typing.Literal["cat", "dog", "none"]
    sure: bool


def with_openai():
    client = openai.OpenAI(base_url=URL + "/v1", api_key="none")
    (model,) = client.models.list().data
    whole = client.chat.completions.create(model=model.id, messages=MESSAGES)
    text = whole.choices[0].message.content
    assert "cat" in text, text
    assert whole.choices[0].finish_reason == "stop" and whole.usage.completion_tokens > 0
    stream = client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces) == text
    assert chunks[-1].usage == whole.usage.model_copy(update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details})
    parsed = client.chat.completions.parse(
        model=model.id, messages=MESSAGES, response_format=Animal, max_tokens=200
    )
    assert isinstance(parsed.choices[0].message.parsed, Animal)
    for wrong in [{"n": 2}, {"temperature": -1}, {"logprobs": True}]:
        try:
            client.chat.completions.create(model=model.id, messages=MESSAGES, **wrong)
        except openai.BadRequestError as error:
            assert error.param in wrong, error
        else:
            raise AssertionError(wrong)
    return text


def with_ollama(text):
    client = ollama.Client(host=URL)
    (model,) = client.list().models
    assert "vision" in client.show(model.model).capabilities
    assert client.generate(model.model, QUESTION, images=[CAT]).response == text
    pieces = client.generate(model.model, QUESTION, images=[CAT], stream=True)
    assert "".join(piece.response for piece in pieces) == text
    message = {"role": "user", "content": QUESTION, "images": [CAT]}
    assert client.chat(model.model, [message]).message.content == text
    answer = client.chat(model.model, [message], format=Animal.model_json_schema(), options={"num_predict": 200})
    Animal.model_validate_json(answer.message.content)
    try:
        client.chat("x", [{"role": "tool", "content": "x"}])
    except ollama.ResponseError as error:
        assert error.status_code == 400
    else:
        raise AssertionError("a tool's message was taken")


def with_litellm(text):
    for model, base in [
        ("openai/owl2", URL + "/v1"),
        ("hosted_vllm/owl2", URL + "/v1"),
        ("ollama/owl2", URL),
        ("ollama_chat/owl2", URL),
    ]:
        answer = litellm.completion(model=model, api_base=base, api_key="none", messages=MESSAGES)
        # Its prompt format for "ollama/" is its own, so only the kind of answer is known.
        said = answer.choices[0].message.content
        assert said == text or model == "ollama/owl2" and said, (model, said)


def main():
    text = with_openai()
    with_ollama(text)
    with_litellm(text)
    print(json.dumps({"answer": text}))
    print("3 passed, 0 failed")


main()
