"""Features that other programs wrote: readers of their files, and what in them is features, labels and ids."""
