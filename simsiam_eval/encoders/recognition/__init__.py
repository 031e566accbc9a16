"""Find the ResNets in a checkpoint, and recognize their family, architecture and variant."""
