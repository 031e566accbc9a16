"""`suspects`: images of a labeled set to look at: likely wrong labels, outliers and near-duplicates."""
