"""`export`: write a feature file as Parquet, as NumPy files or as a dataset of FiftyOne."""
