"""From files to tensors and back: one reader policy, one intensity policy, one label policy."""
