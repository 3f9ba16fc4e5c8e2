"""A bounded load on a server of this machine: mixed questions, slow readers, clients that leave, wrong bodies.

    load.py http://127.0.0.1:PORT ASSETS [--requests 200] [--clients 16] [--seconds 300] [--pid PID]

Every request has to be answered rightly or refused in words: answers are compared with those that the same questions get
first, one by one. Prints one JSON object.
"""

import argparse
import base64
import collections
import http.client
import json
import pathlib
import random
import statistics
import sys
import threading
import time
import urllib.parse

TEXTS = ["What is this?", "Describe the image.", "How many things are there?", "Is there a cat?"]
SCHEMA = {
    "type": "object",
    "required": ["animal"],
    "additionalProperties": False,
    "properties": {"animal": {"enum": ["cat", "dog", "fox", "none"]}},
}
BROKEN = [
    b"", b"{", b"[]", b"\xff", b'{"messages":[]}', b'{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}',
    b'{"messages":[{"role":"user","content":"x"}],"n":3}', b'{"messages":[{"role":"user","content":"x"}],"max_tokens":-1.5}',
    b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]}',
]


def questions(assets):
    made = [{"messages": [{"role": "user", "content": "What color is the sky?"}]}]
    for path in sorted(pathlib.Path(assets).glob("*.png")):
        url = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        for text in TEXTS:
            content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
            made.append({"messages": [{"role": "user", "content": content}], "max_tokens": 48})
        made.append({
            "messages": [{"role": "user", "content": content}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        })
    return made


class Load:
    def __init__(self, options):
        address = urllib.parse.urlsplit(options.url)
        assert address.hostname in ("127.0.0.1", "localhost", "::1"), "only this machine"
        self.address = (address.hostname, address.port)
        self.options = options
        self.questions = questions(options.assets)
        self.wanted = [self.ask(question, "whole")[1] for question in self.questions]
        self.lock = threading.Lock()
        self.left = options.requests
        self.counts = collections.Counter()
        self.times, self.gaps, self.wrong = [], [], []

    def post(self, body):
        connection = http.client.HTTPConnection(*self.address, timeout=self.options.seconds)
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        return connection, connection.getresponse()

    def ask(self, question, way):
        """The status, and the text of the answer."""
        body = dict(question, stream=way != "whole")
        connection, response = self.post(json.dumps(body))
        if response.status != 200 or way == "whole":
            value = json.loads(response.read())
            connection.close()
            return response.status, value["choices"][0]["message"]["content"] if response.status == 200 else value["error"]["message"]
        text, last = "", time.monotonic()
        for line in response:
            if way == "leaves" and text:
                connection.close()
                return 499, text
            if way == "slow":
                time.sleep(0.02)
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    connection.close()
                    return 599, chunk["error"]["message"]
                for choice in chunk["choices"]:
                    piece = choice["delta"].get("content")
                    if piece:
                        now = time.monotonic()
                        if text:
                            self.gaps.append(now - last)
                        text, last = text + piece, now
        connection.close()
        return 200, text

    def one(self, random_):
        kind = random_.random()
        start = time.monotonic()
        if kind < 0.1:
            connection, response = self.post(random_.choice(BROKEN))
            value = json.loads(response.read())
            connection.close()
            if response.status != 400 or not value["error"]["message"]:
                self.wrong.append(f"a broken body got {response.status}")
            self.counts["refused"] += 1
            return
        index = random_.randrange(len(self.questions))
        way = "leaves" if kind < 0.2 else "slow" if kind < 0.3 else random_.choice(["whole", "streamed"])
        status, text = self.ask(self.questions[index], way)
        self.counts[f"{way} {status}"] += 1
        if status == 200:
            self.times.append(time.monotonic() - start)
            if text != self.wanted[index]:
                self.wrong.append(f"question {index}, {way}: {text!r}, wanted {self.wanted[index]!r}")
        elif status == 499:
            if not self.wanted[index].startswith(text):
                self.wrong.append(f"question {index} began {text!r}")
        elif status != 429 or not text:
            self.wrong.append(f"question {index}, {way}: status {status}: {text}")

    def client(self, seed, end):
        random_ = random.Random(seed)
        while time.monotonic() < end:
            with self.lock:
                if self.left == 0:
                    return
                self.left -= 1
            try:
                self.one(random_)
            except Exception as error:  # noqa: BLE001 - every failure is a finding
                self.wrong.append(f"{type(error).__name__}: {error}")

    def memory_mib(self):
        if not self.options.pid:
            return None
        status = pathlib.Path(f"/proc/{self.options.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("RssAnon")]
        return int(line.split()[1]) / 1024

    def run(self):
        before, start = self.memory_mib(), time.monotonic()
        end = start + self.options.seconds
        threads = [threading.Thread(target=self.client, args=(seed, end)) for seed in range(self.options.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        times = sorted(self.times)
        return {
            "requests": self.options.requests - self.left,
            "seconds": round(time.monotonic() - start, 2),
            "counts": dict(self.counts),
            "median_s": statistics.median(times) if times else None,
            "longest_s": times[-1] if times else None,
            "longest_gap_s": max(self.gaps, default=None),
            "memory_mib": [before, self.memory_mib()],
            "wrong": self.wrong[:20],
            "n_wrong": len(self.wrong),
        }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("assets")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--pid", type=int)
    result = Load(parser.parse_args()).run()
    print(json.dumps(result, indent=1))
    sys.exit(1 if result["n_wrong"] else 0)


main()
