"""Write an encoder, without its projector and predictor, in the formats of other programs. One file per format."""
