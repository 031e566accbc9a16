"""The torchvision backend; imports what backends/ may."""
