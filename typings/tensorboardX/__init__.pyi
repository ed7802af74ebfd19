"""What jaxneg uses of tensorboardX, which says nothing of its types."""
