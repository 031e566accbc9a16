"""The torchvision backend. May import what backends/ may."""
