"""Whole collections to tokens, in shards, exactly once.

`tokenize` is the way in, `reader` the way out. The others, low to high:

- `items`, `files`, `fetch`: one recording and its bytes.
- `lists`, `containers`, `sources`, `lengths`: the recordings there are.
- `folder`, `plan`, `planning`: what is to be done.
- `rows`, `parquet`, `webdataset`, `formats`: the file of a shard.
- `read_ahead`, `worker`: the work on a shard.
- `local`, `cluster`: the engines, which do the work.
- `progress`, `outcome`, `verify`: what came of it.
"""
