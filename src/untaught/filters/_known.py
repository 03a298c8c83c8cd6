"""Examples that are known for what they are, in files of their own beside the pool."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from ..core import Documents, UserError
from ..corpus import shards
from ..corpus.shards import Damaged, Reading


def known(path: str, what: str) -> Documents:
    """All examples of a file or folder, in any shape that fine-tuning data has: columns `id`, `text`, `messages`.

    A row that is no example is an error: what is known is to be whole.
    """
    tables = []
    for source in shards.sources([path]):
        try:
            tables += [table for shard in shards.cut(source) for table in shards.read(shard, Reading(examples=True))]
        except Damaged as error:
            raise UserError(f"{what}: {source.path} is {error}. Mend it, or leave it out.") from None
    if not sum(table.num_rows for table in tables):
        raise UserError(f"{what}: '{path}' holds no examples. Give a path with some.")
    table = pa.concat_tables(tables)
    causes = Counter(table["cause"].drop_null().to_pylist())
    if causes:
        cause, count = causes.most_common(1)[0]
        raise UserError(
            f"{what}: {causes.total()} of the {table.num_rows} rows of '{path}' are no examples; {count} for this"
            f" cause: {cause}. Mend them, or leave them out."
        )
    ids = [id or str(row) for row, id in enumerate(table["id"].to_pylist())]
    text = table["text"].cast(pa.string())
    return pa.table({"id": pa.array(ids, pa.string()), "text": text, "messages": table["messages"]})
