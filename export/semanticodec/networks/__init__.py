"""The five networks of the paper's Figure 2 in PyTorch, with the published tensor names."""
