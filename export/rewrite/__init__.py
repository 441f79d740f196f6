"""The graphs as each engine runs them best: the same functions in operators that the engine has fused kernels for.

A pass is a file. `ENGINES` lists the passes of each engine, in order. A rewritten graph reads the data file of the
graph that it was made from: a pass never computes a weight. It only puts nodes (Reshape, Transpose, Cast, Concat)
behind one, which every engine folds when it loads the graph.
"""

from .engines import ENGINES, rewrite, save_variant, save_variants

__all__ = ["ENGINES", "rewrite", "save_variant", "save_variants"]
