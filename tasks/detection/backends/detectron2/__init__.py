"""The detectron2 backend: the reference protocol. May import the interface and the data of detection."""
