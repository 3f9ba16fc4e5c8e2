"""Scores for a folder of pictures, in Parquet files, by several processes of Ray Data.

    python score.py photos scores --model one-align.gguf --workers 2

Can be killed and started again. Columns: path, score, deviation, error.
"""

import sys

import pyarrow as pa
from rows import Worker, arguments, run


class Rater(Worker):
    schema = pa.schema(
        [("path", pa.string()), ("score", pa.float64()), ("deviation", pa.float64()), ("error", pa.string())]
    )

    def compute(self, path):
        score = self.model.score(path, **self.options)
        return {"score": score.score, "deviation": score.deviation}


def main():
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--task", default="quality")
    parser.add_argument("--rule", help="the rule of the model file without it")
    args = parser.parse_args()
    return run(Rater, args, task=args.task, rule=args.rule)


if __name__ == "__main__":
    sys.exit(main())
