"""`atlas`: a table of a large set of images for an interactive map, and the same for FiftyOne."""
