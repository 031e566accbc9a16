"""Images and an encoder to features: batches, inference, the cache. May import features and everything below."""
