"""Linear probes on frozen features, and LARS. May import neighbors, metrics, plots and everything below."""
