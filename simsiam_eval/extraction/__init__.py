"""From images to features: options, blocks, inference, writing, the cache, Ray. May import features and below."""
