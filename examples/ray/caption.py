"""Captions for a folder of pictures, in Parquet files, by several processes of Ray Data.

    python caption.py photos captions --model owl2-q4_k.gguf --workers 2

Can be killed and started again. Columns: path, text, n_tokens, error.
"""

import sys

from rows import Captioner, arguments, run


def main():
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="Describe the image.")
    args = parser.parse_args()
    return run(Captioner, args, prompt=args.prompt)


if __name__ == "__main__":
    sys.exit(main())
