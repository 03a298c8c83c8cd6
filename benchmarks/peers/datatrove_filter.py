"""The peer: datatrove with pyahocorasick, two workers, at least two distinct terms, whole words.

    python datatrove_filter.py PARQUET_FOLDER TERMS OUT [--write]

Texts are spelled as ours are, or documents would be decided otherwise: invisible characters dropped, NFKC, case folded,
white space collapsed; in Python, since that is what a filter of datatrove is written in. A hit counts when neither
neighbour is alphanumeric; a document is left at its second term. Without `--write` each rank writes the ids it
flags; with it, kept and removed documents are written as parquet, as `untaught filter --apply` does.
"""

import re
import sys
import unicodedata
from pathlib import Path

import ahocorasick
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter

INVISIBLE = re.compile("[\u00ad\u034f\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")


def automaton(path):
    words = ahocorasick.Automaton()
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.strip():
            term = spelled(line)
            words.add_word(term, (term, len(term)))
    words.make_automaton()
    return words


def spelled(text):
    if not text.isascii():
        text = INVISIBLE.sub("", text)
        if not unicodedata.is_normalized("NFKC", text):
            text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def flagged(words, text):
    low, seen = spelled(text), set()
    end = len(low)
    for last, (term, size) in words.iter(low):
        first = last - size + 1
        if (first == 0 or not low[first - 1].isalnum()) and (last + 1 >= end or not low[last + 1].isalnum()):
            seen.add(term)
            if len(seen) == 2:
                return True
    return False


class Whole(BaseFilter):
    """Keeps what is not flagged."""

    name = "blocklist"

    def __init__(self, terms, exclusion=None):
        super().__init__(exclusion)
        self.terms, self.words = terms, None

    def filter(self, doc):
        self.words = self.words or automaton(self.terms)
        return not flagged(self.words, doc.text)


class Ids(PipelineStep):
    """Writes the ids that are flagged."""

    name, type = "ids", "decide"

    def __init__(self, terms, out):
        super().__init__()
        self.terms, self.out = terms, out

    def run(self, data, rank=0, world_size=1):
        words = automaton(self.terms)
        Path(self.out).mkdir(parents=True, exist_ok=True)
        with (Path(self.out) / f"{rank:05d}.flagged").open("w") as file:
            for doc in data:
                if flagged(words, doc.text):
                    file.write(f"{doc.id}\n")
        yield from ()


def main():
    folder, terms, out, *more = sys.argv[1:]
    reader = ParquetReader(folder, text_key="text", id_key="id")
    if more:
        steps = [
            reader,
            Whole(terms, ParquetWriter(f"{out}/removed", compression="zstd")),
            ParquetWriter(f"{out}/kept", compression="zstd"),
        ]
    else:
        steps = [reader, Ids(terms, out)]
    LocalPipelineExecutor(
        steps, tasks=len(list(Path(folder).glob("*.parquet"))), workers=2, logging_dir=f"{out}/logs"
    ).run()


if __name__ == "__main__":
    main()
