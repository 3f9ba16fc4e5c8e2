"""Captions for a folder of pictures, in Parquet files, by several processes of Dask.

    python caption.py photos captions --model owl2-q4_k.gguf --workers 2

Needs `pip install distributed pyarrow`. Can be killed and started again. Columns: path, text, n_tokens,
error.
"""

import functools
import os
import sys
import uuid
from pathlib import Path

import pyarrow.parquet as pq
from distributed import Client, LocalCluster

# The function is the one of Ray's examples.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ray"))
import rows


def write(paths, out, **options):
    """Computes some pictures and adds a file of them, which is there whole or not at all."""
    table = rows.captions(paths, **options)
    unfinished = out / f".{uuid.uuid4().hex}"
    pq.write_table(table, unfinished)
    os.replace(unfinished, unfinished.with_name(f"{unfinished.name[1:]}.parquet"))


def main():
    parser = rows.arguments(__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="Describe the image.")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    paths = rows.pending(args.folder, args.out)
    if paths:
        # Client("tcp://...") takes the workers of a cluster. Each is a process with one thread, as in Ray.
        with (
            LocalCluster(n_workers=args.workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            client.upload_file(rows.__file__)
            compute = functools.partial(
                write, out=args.out.resolve(), model=args.model, tries=args.tries, prompt=args.prompt
            )
            parts = [paths[i : i + args.batch] for i in range(0, len(paths), args.batch)]
            client.gather(client.map(compute, parts, pure=False))
    return rows.report(len(paths), args.out)


if __name__ == "__main__":
    sys.exit(main())
