"""Captions for a folder of pictures, in Parquet files, by several processes of Spark.

    python caption.py photos captions --model owl2-q4_k.gguf --workers 2

Needs `pip install "pyspark[sql]"` and Java 17. Can be killed and started again. Columns: path, text,
n_tokens, error.
"""

import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession

# The function is the one of Ray's examples.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ray"))
import rows


def compute(options):
    """What makes batches of captions from batches of paths."""

    def of_batches(batches):
        for batch in batches:
            yield from rows.captions(batch["path"].to_pylist(), **options).to_batches()

    return of_batches


def main():
    parser = rows.arguments(__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="Describe the image.")
    args = parser.parse_args()
    paths = rows.pending(args.folder, args.out)
    if paths:
        # Its workers are another Python otherwise, which may lack the package.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        # On a cluster leave out the master, which spark-submit names then.
        builder = SparkSession.builder.master(f"local[{args.workers}]")
        # The file of a part is kept as soon as it is whole, not only when all are.
        builder = builder.config("spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version", "2")
        spark = builder.getOrCreate()
        spark.sparkContext.addPyFile(rows.__file__)
        spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", args.batch)
        options = {"model": args.model, "tries": args.tries, "prompt": args.prompt}
        table = spark.createDataFrame([(path,) for path in paths], "path string")
        table = table.repartition(-(-len(paths) // args.batch)).mapInArrow(
            compute(options), "path string, text string, n_tokens int, error string"
        )
        table.write.mode("append").parquet(str(args.out.resolve()))
        spark.stop()
    return rows.report(len(paths), args.out)


if __name__ == "__main__":
    sys.exit(main())
