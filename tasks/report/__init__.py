"""`report`: one HTML page about an encoder, in which every number leads to the images behind it."""
