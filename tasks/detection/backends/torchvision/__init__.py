"""The torchvision backend. May import the interface and the data of detection."""
