"""What the programs have in common: which pictures are left, who computes them, and the Parquet files.

Ray is needed by `run` alone; `../dask` and `../spark` use the rest of it. Each row is a picture. A row that
failed has an `error` and is tried again by the next run; one that is done is not computed again. `merged` gives a row for each picture, however many runs it took.
"""

import argparse
import functools
import os
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import owl2

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".qoi", ".jxl"}
# Kinds of failure that another try may mend: a disk or network that did not answer, memory that was taken.
PASSING = {"io", "capacity"}


def arguments(about):
    """The arguments that both programs have."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("folder", type=Path, help="a folder of pictures")
    parser.add_argument("out", type=Path, help="a folder for Parquet files; what is done there is kept")
    parser.add_argument("--model", help="a model file; the small model of the package without it")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, each with a core")
    parser.add_argument("--batch", type=int, default=16, help="pictures that a worker takes at once")
    parser.add_argument("--tries", type=int, default=3, help="of a picture whose failure may pass")
    return parser


class Worker:
    """A process with the model. All those of a machine share one copy of its weights in memory."""

    def __init__(self, model, tries, **options):
        # Ray counts on one core a worker.
        self.model = owl2.Model(model, threads=1)
        self.tries = tries
        self.options = options

    def compute(self, path):
        """The columns of a picture. A subclass says which."""
        raise NotImplementedError

    def __call__(self, batch):
        rows = [self._row(path) for path in batch["path"].to_pylist()]
        return pa.Table.from_pylist(rows, schema=self.schema)

    def _row(self, path):
        for n_tries in range(1, self.tries + 1):
            try:
                return {"path": path, **self.compute(path), "error": None}
            except owl2.Error as error:
                if error.kind not in PASSING or n_tries == self.tries:
                    return {"path": path, "error": f"{error.kind}: {error}"}
                time.sleep(0.1 * 2**n_tries)


class Captioner(Worker):
    """Asks each picture the question `prompt`."""

    schema = pa.schema(
        [("path", pa.string()), ("text", pa.string()), ("n_tokens", pa.int32()), ("error", pa.string())]
    )

    def compute(self, path):
        answer = self.model.ask(self.options["prompt"], path)
        return {"text": answer.text, "n_tokens": len(answer.ids)}


@functools.cache
def captioner(model, tries, prompt):
    """This process's one, where an engine calls a function and keeps no objects."""
    return Captioner(model, tries, prompt=prompt)


def captions(paths, model, tries, prompt):
    """The table of some pictures: the function that Dask and Spark are given."""
    return captioner(model, tries, prompt)(pa.table({"path": pa.array(paths, pa.string())}))


def merged(out):
    """A row for each path in the Parquet files of `out`: that of a success, where there is one."""
    rows = {}
    for file in sorted(Path(out).glob("*.parquet")):
        try:
            table = pq.read_table(file)
        except pa.ArrowInvalid:
            # A run was killed while it wrote this; its rows are computed again.
            continue
        for row in table.to_pylist():
            if row["path"] not in rows or rows[row["path"]]["error"] is not None:
                rows[row["path"]] = row
    return rows


def pending(folder, out):
    """The pictures of a folder, and of those in it, that are not done."""
    paths = (path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    paths = {str(path.resolve()) for path in paths}
    return sorted(paths - {path for path, row in merged(out).items() if row["error"] is None})


def run(worker, args, **options):
    """Computes what is left and adds it to the Parquet files. The exit status: 1 where some rows failed."""
    import ray

    args.out.mkdir(parents=True, exist_ok=True)
    paths = pending(args.folder, args.out)
    if paths:
        # A block is what is lost with a process, and what a Parquet file has: some batches.
        n_blocks = max(-(-len(paths) // (4 * args.batch)), args.workers)
        paths = [{"path": path} for path in paths]
        rows = ray.data.from_items(paths, override_num_blocks=min(n_blocks, len(paths))).map_batches(
            worker,
            fn_constructor_kwargs={"model": args.model, "tries": args.tries, **options},
            batch_format="pyarrow",
            batch_size=args.batch,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=args.workers),
        )
        # The workers may have all cores, and whatever wants one of its own would wait for ever.
        rows.write_parquet(
            str(args.out), mode="append", ray_remote_args={"num_cpus": 0}, concurrency=1
        )
    return report(len(paths), args.out)


def report(n_computed, out):
    """Says how it went. The exit status: 1 where some rows failed."""
    n_failed = sum(row["error"] is not None for row in merged(out).values())
    print(f"{n_computed} computed, {n_failed} failed", file=sys.stderr)
    return 1 if n_failed else 0
