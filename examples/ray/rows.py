"""What the two programs have in common: which pictures are left, who computes them, and the Parquet files.

Each row is a picture. A row that failed has an `error` and is tried again by the next run; one that is
done is never computed again. `merged` gives one row a picture, whatever runs it took.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

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


def merged(out):
    """One row for each picture of the Parquet files in `out`: that of a success, where there is one."""
    tables = []
    for file in sorted(Path(out).glob("*.parquet")):
        try:
            tables.append(pq.read_table(file))
        except pa.ArrowInvalid:
            # A run was killed while it wrote this; its rows are computed again.
            file.unlink()
    if not tables:
        return None
    table = pa.concat_tables(tables, promote_options="permissive")
    # Successes come first, and of each picture the first row stays.
    order = pc.sort_indices(table, [("path", "ascending"), ("error", "ascending")], null_placement="at_start")
    table = table.take(order)
    paths = table["path"].to_pylist()
    is_first = [i == 0 or path != paths[i - 1] for i, path in enumerate(paths)]
    return table.filter(pa.array(is_first))


def pending(folder, out):
    """The pictures of a folder, and of those in it, that are not done."""
    paths = (path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    paths = {str(path.resolve()) for path in paths}
    table = merged(out)
    if table is not None:
        paths -= set(table.filter(pc.is_null(table["error"]))["path"].to_pylist())
    return sorted(paths)


def run(worker, args, **options):
    """Computes what is left and adds it to the Parquet files. The exit status: 1 where some rows failed."""
    args.out.mkdir(parents=True, exist_ok=True)
    paths = pending(args.folder, args.out)
    if paths:
        # A block is what is lost with a process, and what a Parquet file has: some batches.
        n_blocks = -(-len(paths) // (4 * args.batch))
        rows = ray.data.from_items([{"path": path} for path in paths])
        rows = rows.repartition(max(n_blocks, args.workers)).map_batches(
            worker,
            fn_constructor_kwargs={"model": args.model, "tries": args.tries, **options},
            batch_format="pyarrow",
            batch_size=args.batch,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=args.workers),
        )
        rows.write_parquet(str(args.out), mode="append")
    table = merged(args.out)
    n_failed = 0 if table is None else table.num_rows - table["error"].null_count
    print(f"{len(paths)} computed, {n_failed} failed", file=sys.stderr)
    return 1 if n_failed else 0
