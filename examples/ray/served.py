"""Captions for a folder of pictures, in Parquet files, by a running `owl2 serve`, through Ray's HTTP processor.

    owl2 serve -m owl2-q4_k.gguf --parallel 4
    python served.py photos captions --url http://127.0.0.1:8080 --parallel 4

For clusters that have the server on other machines; on one machine `caption.py` does with fewer parts.
Needs `pip install aiohttp pydantic` beside `ray[data]`. Columns: path, text, error.
"""

import argparse
import base64
import sys
from pathlib import Path

import aiohttp
import ray
from ray.data.llm import HttpRequestProcessorConfig, build_processor
from rows import pending, report

# Requests that an actor of Ray has on their way at once, where each is a batch of its own.
AT_ONCE = 4


def session():
    """A client that waits as long as an answer takes; aiohttp's own gives up after five minutes."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_read=600))


def request(prompt):
    """What makes a request of a row."""

    def of_row(row):
        picture = base64.b64encode(Path(row["path"]).read_bytes()).decode()
        content = [
            {"type": "text", "text": prompt},
            {"type": "image_url", "image_url": {"url": f"data:;base64,{picture}"}},
        ]
        messages = [{"role": "user", "content": content}]
        return {"path": row["path"], "payload": {"messages": messages}}

    return of_row


def answer(row):
    """What stays of a row. The server's errors come with the status 400 or in an answer of status 200."""
    response = row["http_response"]
    if response.get("error"):
        return {"path": row["path"], "text": None, "error": response["error"]["message"]}
    return {
        "path": row["path"],
        "text": response["choices"][0]["message"]["content"],
        "error": None,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--parallel", type=int, default=4, help="that of the server")
    parser.add_argument("--prompt", default="Describe the image.")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    paths = pending(args.folder, args.out)
    if paths:
        # The server needs the cores. A stage without a bound starts processes by the dozen.
        light = {"num_cpus": 0.1, "concurrency": 1}
        processor = build_processor(
            HttpRequestProcessorConfig(
                url=f"{args.url}/v1/chat/completions",
                # The rows of a batch are sent one after another: the default, 64, leaves a server idle that
                # answers several at once. Twice as many as it answers are on their way.
                batch_size=1,
                concurrency=max(1, 2 * args.parallel // AT_ONCE),
                # None is the default, and the first answer of 429 ends the job.
                max_retries=8,
                session_factory=session,
                http_request_stage={"num_cpus": 0.1},
            ),
            preprocess=request(args.prompt),
            postprocess=answer,
            preprocess_map_kwargs=light,
            postprocess_map_kwargs=light,
        )
        items = [{"path": path} for path in paths]
        rows = processor(ray.data.from_items(items, override_num_blocks=-(-len(items) // 16)))
        rows.write_parquet(
            str(args.out), mode="append", ray_remote_args={"num_cpus": 0}, concurrency=1
        )
    return report(len(paths), args.out)


if __name__ == "__main__":
    sys.exit(main())
